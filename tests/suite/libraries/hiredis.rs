//! hiredis, a C library, used by a C program that is compiled and loaded while the test runs.

#![expect(unsafe_code, reason = "calls a C program")]

use std::ffi::{CStr, CString, c_char, c_int, c_long, c_ulong, c_void};
use std::net::SocketAddr;
use std::process::Command;
use std::thread;

use anyhow::{Context, Result, bail, ensure};
use libraries::calls::Call;
use libraries::processes::Process;

use super::redis::push_when_all_wait;
use super::{at_once, own_answers};

#[test]
fn hiredis_waits_for_a_thousand_lists_on_one_worker() {
    let server = Process::redis().unwrap();
    let addr = server.addr();
    let program = Program::compiled().unwrap();
    let pusher = thread::spawn(move || push_when_all_wait(addr, |caller| format!("list-{caller}")));
    let answers = at_once(move |caller| program.call(addr, format!("list-{caller}")));
    pusher.join().unwrap();
    assert_eq!(answers, own_answers(|caller| format!("for list-{caller}")));
}

/// The functions of `hiredis_client.c`, loaded for good.
#[derive(Clone, Copy)]
struct Program {
    open: Open,
    pop: Pop,
    close: Close,
}

type Open = unsafe extern "C" fn(*const c_char, c_int) -> *mut c_void;
type Pop = unsafe extern "C" fn(*mut c_void, *const c_char, *mut c_char, c_ulong) -> c_long;
type Close = unsafe extern "C" fn(*mut c_void);

impl Program {
    fn compiled() -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let library = folder.path().join("client.so");
        let source = tests::root().join("tests/suite/libraries/hiredis_client.c");
        let mut compiler = Command::new("cc");
        compiler
            .args(["-shared", "-fPIC", "-O1", "-o"])
            .arg(&library);
        let output = compiler.arg(source).arg("-lhiredis").output();
        let output = output.context("no C compiler: `apt-get install gcc libc6-dev`")?;
        ensure!(
            output.status.success(),
            "cc cannot compile against hiredis; `cargo xtask test` installs libhiredis-dev: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        let path = CString::new(library.to_string_lossy().as_bytes())?;
        // SAFETY: the library's own start runs no code of ours.
        let handle = unsafe { libc::dlopen(path.as_ptr(), libc::RTLD_NOW) };
        if handle.is_null() {
            // SAFETY: dlerror gives a C string after a failure, until the next call here.
            bail!("{:?}", unsafe { CStr::from_ptr(libc::dlerror()) });
        }
        let symbol = |name: &CStr| {
            // SAFETY: the handle is open and stays so.
            let found = unsafe { libc::dlsym(handle, name.as_ptr()) };
            (!found.is_null())
                .then_some(found)
                .context("a symbol is missing")
        };
        // SAFETY: the three signatures are those of the C file.
        unsafe {
            Ok(Self {
                open: std::mem::transmute::<*mut c_void, Open>(symbol(c"client_open")?),
                pop: std::mem::transmute::<*mut c_void, Pop>(symbol(c"client_pop")?),
                close: std::mem::transmute::<*mut c_void, Close>(symbol(c"client_close")?),
            })
        }
    }

    /// An open connection, and its wait for `list`.
    fn call(self, addr: SocketAddr, list: String) -> Result<Call> {
        let host = CString::new(addr.ip().to_string())?;
        // SAFETY: a C string that outlives the call.
        let client = unsafe { (self.open)(host.as_ptr(), addr.port().into()) };
        ensure!(!client.is_null(), "hiredis cannot connect to {addr}");
        let client = Client(client, self);
        let list = CString::new(list)?;
        Ok(Box::new(move || client.pop(&list)))
    }
}

/// A hiredis context, used by one coroutine at a time.
struct Client(*mut c_void, Program);

// SAFETY: hiredis keeps nothing of the thread that made a context.
unsafe impl Send for Client {}

impl Client {
    fn pop(&self, list: &CStr) -> Result<String> {
        let mut answer = [0_u8; 64];
        let (place, room) = (answer.as_mut_ptr().cast(), answer.len() as c_ulong);
        // SAFETY: the context is open; the answer's room is as said.
        let length = unsafe { (self.1.pop)(self.0, list.as_ptr(), place, room) };
        let length = usize::try_from(length).context("hiredis gave no element")?;
        Ok(String::from_utf8_lossy(&answer[..length]).into_owned())
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        // SAFETY: nobody uses the context any more.
        unsafe { (self.1.close)(self.0) };
    }
}
