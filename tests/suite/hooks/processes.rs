//! Children: fork by hand, `pre_exec`, output, waiting.

use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use rpc_core::spawn;

use super::{let_others_run, on_one_worker};

#[test]
fn a_forked_child_is_a_plain_process_and_exits_cleanly() {
    let (code, said) = on_one_worker(|| {
        let (mut reader, mut writer) = std::io::pipe().unwrap();
        let (other, mut silent) = std::io::pipe().unwrap();
        // SAFETY: the child calls only what a lone thread may, and leaves by `_exit`.
        let pid = unsafe { libc::fork() };
        if pid == 0 {
            // Calls that would park a coroutine must be plain ones here.
            std::thread::sleep(std::time::Duration::from_millis(2));
            let mut entry = libc::pollfd {
                fd: other.as_raw_fd(),
                events: libc::POLLIN,
                revents: 0,
            };
            // SAFETY: one entry, alive across the call.
            let polled = unsafe { libc::poll(&raw mut entry, 1, 2) };
            let done = writer.write_all(b"child").is_ok() && polled == 0;
            // SAFETY: ends this process alone.
            unsafe { libc::_exit(if done { 7 } else { 1 }) };
        }
        assert!(pid > 0);
        drop(writer);
        let mut said = String::new();
        reader.read_to_string(&mut said).unwrap();
        silent.write_all(b"x").unwrap();
        let mut status = 0;
        // SAFETY: a place for the status.
        assert_eq!(unsafe { libc::waitpid(pid, &raw mut status, 0) }, pid);
        (libc::WEXITSTATUS(status), said)
    });
    assert_eq!((code, said.as_str()), (7, "child"));
}

#[test]
fn waiting_for_any_child_of_a_group_lets_others_run() {
    let code = on_one_worker(|| {
        let (mut reader, writer) = std::io::pipe().unwrap();
        // SAFETY: the child calls only what a lone thread may, and leaves by `_exit`.
        let pid = unsafe { libc::fork() };
        if pid == 0 {
            drop(writer);
            let _ = reader.read(&mut [0]);
            // SAFETY: ends this process alone.
            unsafe { libc::_exit(9) };
        }
        // A group of its own: other tests have children too.
        // SAFETY: takes numbers.
        assert_eq!(unsafe { libc::setpgid(pid, pid) }, 0);
        let waiter = spawn(move || {
            let mut status = 0;
            // SAFETY: a place for the status.
            assert_eq!(unsafe { libc::waitpid(-pid, &raw mut status, 0) }, pid);
            libc::WEXITSTATUS(status)
        });
        let_others_run();
        assert!(!waiter.is_finished());
        drop(writer);
        waiter.join().unwrap()
    });
    assert_eq!(code, 9);
}

#[test]
fn vfork_leaves_the_parent_its_coroutine() {
    on_one_worker(|| {
        // Deprecated in the binding because of what this crate's `vfork` does not do: share memory.
        #[expect(deprecated, reason = "C libraries call it")]
        // SAFETY: the child leaves at once.
        let pid = unsafe { libc::vfork() };
        if pid == 0 {
            // SAFETY: ends this process alone.
            unsafe { libc::_exit(3) };
        }
        let mut status = 0;
        // SAFETY: a place for the status.
        assert_eq!(unsafe { libc::waitpid(pid, &raw mut status, 0) }, pid);
        assert_eq!(libc::WEXITSTATUS(status), 3);
        assert_eq!(spawn(|| 5).join().unwrap(), 5);
    });
}

#[test]
fn commands_run_and_their_output_is_read() {
    let texts = on_one_worker(|| {
        let runs: Vec<_> = (0..4)
            .map(|i| {
                spawn(move || {
                    let output = Command::new("sh")
                        .arg("-c")
                        .arg(format!("sleep 0.05; echo out{i}; echo err{i} >&2"))
                        .output()
                        .unwrap();
                    assert!(output.status.success());
                    [output.stdout, output.stderr].concat()
                })
            })
            .collect();
        runs.into_iter()
            .map(|r| String::from_utf8(r.join().unwrap()).unwrap())
            .collect::<Vec<_>>()
    });
    let expected: Vec<_> = (0..4).map(|i| format!("out{i}\nerr{i}\n")).collect();
    assert_eq!(texts, expected);
}

#[test]
fn pre_exec_runs_in_the_child() {
    let folder = on_one_worker(|| {
        let mut command = Command::new("pwd");
        // SAFETY: one system call, no memory touched.
        unsafe {
            command.pre_exec(|| match libc::chdir(c"/".as_ptr()) {
                0 => Ok(()),
                _ => Err(std::io::Error::last_os_error()),
            })
        };
        String::from_utf8(command.output().unwrap().stdout).unwrap()
    });
    assert_eq!(folder, "/\n");
}

#[test]
fn waiting_for_a_child_lets_others_run() {
    let (status, text) = on_one_worker(|| {
        let mut child = Command::new("cat")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (mut input, mut output) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        let waiter = spawn(move || child.wait().unwrap().code());
        let_others_run();
        // Only now can the child end: its waiter must not hold the worker.
        input.write_all(b"meow").unwrap();
        drop(input);
        let mut text = String::new();
        output.read_to_string(&mut text).unwrap();
        (waiter.join().unwrap(), text)
    });
    assert_eq!((status, text.as_str()), (Some(0), "meow"));
}
