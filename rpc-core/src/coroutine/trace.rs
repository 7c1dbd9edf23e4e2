//! Call stacks of coroutines other than the caller's: parked ones, and copies of running ones.
//!
//! Knows: unwind tables of the loaded program, names of code.   Does not know: tasks, signals.
//!
//! Frames are found by the tables that exceptions use (`.eh_frame`), for neither the program nor libc
//! need keep frame pointers. Only words inside the given stack are read, through a closure: a stack that
//! changes meanwhile gives wrong frames, never a fault.

#![expect(unsafe_code, reason = "reads the loader's list and unwind tables")]

use std::collections::HashMap;
use std::ffi::c_void;
use std::ops::Range;

use gimli::{
    BaseAddresses, CfaRule, EhFrame, EhFrameHdr, NativeEndian, Pointer, Register, RegisterRule,
    UnwindContext, UnwindSection,
};

/// Where a suspended or interrupted thread stood: what unwinding starts from.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub(crate) struct Registers {
    pub(crate) pc: usize,
    pub(crate) sp: usize,
    /// The frame pointer register, whatever the code uses it for.
    pub(crate) fp: usize,
}

/// A copy of a stack from its stack pointer on.
pub(crate) struct Stack {
    pub(crate) at: Registers,
    pub(crate) words: Vec<usize>,
}

impl Stack {
    /// The word at `address`, if it was copied.
    pub(crate) fn read(&self, address: usize) -> Option<usize> {
        let offset = address.checked_sub(self.at.sp)?;
        let word = self.words.get(offset / size_of::<usize>())?;
        offset.is_multiple_of(size_of::<usize>()).then_some(*word)
    }
}

/// Finds frames and their names; remembers what it looked up.
#[derive(Default)]
pub(crate) struct Trace {
    modules: Option<Vec<Module>>,
    /// By the address looked up.
    rules: HashMap<usize, Option<Rule>>,
    names: HashMap<usize, Vec<Place>>,
    context: UnwindContext<usize>,
}

/// A place in the source. One address has several where calls were inlined: the innermost first.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    pub(crate) name: String,
    /// `file:line`; empty where unknown.
    pub(crate) position: String,
}

/// How to find a frame's caller.
#[derive(Clone, Copy)]
struct Rule {
    /// The frame's upper end is this far from the frame pointer (true) or the stack pointer.
    from_fp: bool,
    up: i64,
    /// Where the caller's frame pointer is kept, from that end; `None` = unchanged.
    fp: Option<i64>,
    /// Where the return address is kept.
    back: i64,
    /// The frame of a signal: its pc is no return address.
    signal: bool,
}

impl Trace {
    /// Addresses of code from the innermost frame on: the first as it stands, the others return
    /// addresses.
    pub(crate) fn walk(
        &mut self,
        mut at: Registers,
        read: impl Fn(usize) -> Option<usize>,
    ) -> Vec<usize> {
        let mut frames = Vec::new();
        let mut exact = true;
        while at.pc != 0 && frames.len() < FRAMES_MAX {
            frames.push(at.pc);
            // A call may be a function's last instruction: look before the return address.
            let Some(rule) = self.rule(at.pc - usize::from(!exact)) else {
                break;
            };
            let base = if rule.from_fp { at.fp } else { at.sp };
            let end = base.wrapping_add_signed(rule.up as isize);
            let kept = |offset: i64| read(end.wrapping_add_signed(offset as isize));
            let (Some(pc), Some(fp)) = (kept(rule.back), rule.fp.map_or(Some(at.fp), kept)) else {
                break;
            };
            // Callers' frames lie above; anything else is a stack that has changed meanwhile.
            if end <= at.sp {
                break;
            }
            exact = rule.signal;
            at = Registers { pc, sp: end, fp };
        }
        frames
    }

    /// One line a frame, inlined calls included; the scheduler's own frames at both ends left out.
    pub(crate) fn lines(&mut self, stack: &Stack) -> Vec<String> {
        let frames = self.walk(stack.at, |address| stack.read(address));
        self.describe(&frames)
    }

    /// As [`Trace::lines`], of frames already found.
    pub(crate) fn describe(&mut self, frames: &[usize]) -> Vec<String> {
        let places: Vec<Place> = frames.iter().flat_map(|pc| self.places(*pc)).collect();
        let within =
            |place: &Place, files: &[&str]| files.iter().any(|file| place.position.contains(file));
        let first = places.iter().position(|place| !within(place, &INTERNAL));
        let first = first.unwrap_or(0);
        let main = places.iter().rposition(|place| place.name.ends_with(MAIN));
        let mut end = main.unwrap_or(places.len());
        while end > first + 1 && within(&places[end - 1], &BOTTOM) {
            end -= 1;
        }
        places[first..end]
            .iter()
            .enumerate()
            .map(|(i, place)| match place.position.as_str() {
                "" => format!("{i}: {}", place.name),
                position => format!("{i}: {} at {position}", place.name),
            })
            .collect()
    }

    fn places(&mut self, pc: usize) -> Vec<Place> {
        let names = self.names.entry(pc);
        names.or_insert_with(|| resolve(pc)).clone()
    }

    fn rule(&mut self, pc: usize) -> Option<Rule> {
        if let Some(known) = self.rules.get(&pc) {
            return *known;
        }
        let modules = self.modules.get_or_insert_with(modules);
        let module = modules.iter().find(|module| module.code.contains(&pc));
        let rule = module.and_then(|module| module.rule(pc, &mut self.context));
        self.rules.insert(pc, rule);
        rule
    }
}

/// Names and positions of an address.
fn resolve(pc: usize) -> Vec<Place> {
    let mut places = Vec::new();
    backtrace::resolve(pc as *mut c_void, |symbol| {
        let name = symbol
            .name()
            .map_or_else(|| format!("{pc:#x}"), |name| format!("{name:#}"));
        let position = symbol.filename().map_or_else(String::new, |file| {
            format!("{}:{}", file.display(), symbol.lineno().unwrap_or(0))
        });
        places.push(Place { name, position });
    });
    if places.is_empty() {
        places.push(Place {
            name: format!("{pc:#x}"),
            position: String::new(),
        });
    }
    places
}

/// One loaded object: its code and its unwind tables, both for as long as it stays loaded.
struct Module {
    code: Range<usize>,
    /// `.eh_frame_hdr`: a sorted table of functions.
    index: Section,
    /// `.eh_frame`.
    frames: Section,
}

/// Bytes of the program, and where they lie.
#[derive(Clone, Copy)]
struct Section {
    at: usize,
    bytes: &'static [u8],
}

impl Module {
    /// What the tables say of `pc`. `None` where they end, or say what only a full evaluator knows.
    fn rule(&self, pc: usize, context: &mut UnwindContext<usize>) -> Option<Rule> {
        let bases = BaseAddresses::default()
            .set_eh_frame_hdr(self.index.at as u64)
            .set_eh_frame(self.frames.at as u64);
        let index = EhFrameHdr::new(self.index.bytes, NativeEndian);
        let index = index.parse(&bases, size_of::<usize>() as u8).ok()?;
        let frames = EhFrame::new(self.frames.bytes, NativeEndian);
        let function = index
            .table()?
            .fde_for_address(&frames, &bases, pc as u64, EhFrame::cie_from_offset)
            .ok()?;
        let signal = function.is_signal_trampoline();
        let row = function
            .unwind_info_for_address(&frames, &bases, context, pc as u64)
            .ok()?;
        let CfaRule::RegisterAndOffset { register, offset } = row.cfa() else {
            return None;
        };
        let from_fp = match *register {
            STACK_POINTER => false,
            FRAME_POINTER => true,
            _ => return None,
        };
        let fp = match row.register(FRAME_POINTER) {
            None | Some(RegisterRule::SameValue) => None,
            Some(RegisterRule::Offset(offset)) => Some(offset),
            Some(_) => return None,
        };
        let Some(RegisterRule::Offset(back)) = row.register(RETURN_ADDRESS) else {
            return None;
        };
        Some(Rule {
            from_fp,
            up: *offset,
            fp,
            back,
            signal,
        })
    }
}

/// The objects loaded now.
fn modules() -> Vec<Module> {
    extern "C" fn visit(info: *mut libc::dl_phdr_info, _: usize, out: *mut c_void) -> i32 {
        // SAFETY: the loader passes a valid description, and back what was given to it.
        let (info, out) = unsafe { (&*info, &mut *out.cast::<Vec<Module>>()) };
        // SAFETY: the loader's own table of program headers.
        let headers =
            unsafe { std::slice::from_raw_parts(info.dlpi_phdr, usize::from(info.dlpi_phnum)) };
        let range = |header: &libc::Elf64_Phdr| {
            let start = (info.dlpi_addr as usize).wrapping_add(header.p_vaddr as usize);
            start..start + header.p_memsz as usize
        };
        let loaded = |address: usize| {
            let mut loads = headers.iter().filter(|h| h.p_type == libc::PT_LOAD);
            loads.find(|h| range(h).contains(&address)).map(range)
        };
        let section = |range: Range<usize>| Section {
            at: range.start,
            // SAFETY: inside a segment of the object, which stays mapped while it is loaded.
            bytes: unsafe { std::slice::from_raw_parts(range.start as *const u8, range.len()) },
        };
        let Some(index) = headers.iter().find(|h| h.p_type == libc::PT_GNU_EH_FRAME) else {
            return 0;
        };
        let index = section(range(index));
        let bases = BaseAddresses::default().set_eh_frame_hdr(index.at as u64);
        let parsed = EhFrameHdr::new(index.bytes, NativeEndian);
        let frames = match parsed.parse(&bases, size_of::<usize>() as u8) {
            Ok(parsed) => match parsed.eh_frame_ptr() {
                Pointer::Direct(at) => at as usize,
                Pointer::Indirect(_) => return 0,
            },
            Err(_) => return 0,
        };
        let Some(segment) = loaded(frames) else {
            return 0;
        };
        let frames = section(frames..segment.end);
        let code = headers
            .iter()
            .filter(|h| h.p_type == libc::PT_LOAD && h.p_flags & libc::PF_X != 0);
        out.extend(code.map(|header| Module {
            code: range(header),
            index,
            frames,
        }));
        0
    }
    let mut modules: Vec<Module> = Vec::new();
    // SAFETY: `visit` gets back the pointer given here, valid during the call.
    unsafe { libc::dl_iterate_phdr(Some(visit), (&raw mut modules).cast()) };
    modules
}

/// DWARF's numbers of registers (System V ABI, AMD64 supplement, figure 3.36).
#[cfg(target_arch = "x86_64")]
const FRAME_POINTER: Register = Register(6);
#[cfg(target_arch = "x86_64")]
const STACK_POINTER: Register = Register(7);
#[cfg(target_arch = "x86_64")]
const RETURN_ADDRESS: Register = Register(16);
/// DWARF for the Arm 64-bit architecture, section 4.1.
#[cfg(target_arch = "aarch64")]
const FRAME_POINTER: Register = Register(29);
#[cfg(target_arch = "aarch64")]
const STACK_POINTER: Register = Register(31);
#[cfg(target_arch = "aarch64")]
const RETURN_ADDRESS: Register = Register(30);

/// A deeper stack is a loop, or of little use.
const FRAMES_MAX: usize = 128;

/// How every wait ends below the code that waits: left out. By file, for where only line tables are
/// kept names have no paths.
const INTERNAL: [&str; 4] = [
    "rpc-core/src/coroutine/mod.rs:",
    "rpc-core/src/runtime/task.rs:",
    "rpc-core/src/runtime/park.rs:",
    "/corosensei-",
];
/// Where every coroutine begins: left out with all that lies beyond.
const MAIN: &str = "main_loop";
/// What lies between that and the program's own closure.
const BOTTOM: [&str; 5] = [
    "rpc-core/src/runtime/task.rs:",
    "rpc-core/src/runtime/join.rs:",
    "/std/src/panicking.rs:",
    "/std/src/panic.rs:",
    "/core/src/panic/unwind_safe.rs:",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[inline(never)]
    fn outer(depth: usize) -> Vec<String> {
        if depth > 0 {
            return std::hint::black_box(outer(depth - 1));
        }
        let at = Registers::here();
        let read = |address: usize| {
            // SAFETY: frames above ours on the same stack.
            Some(unsafe { (address as *const usize).read_volatile() })
        };
        let mut trace = Trace::default();
        let frames = trace.walk(at, read);
        assert!(frames.len() > 4, "{frames:x?}");
        trace.describe(&frames)
    }

    #[test]
    fn every_caller_is_found_by_name() {
        let lines = std::hint::black_box(outer(3));
        let mine = |line: &&String| line.contains(": outer at ");
        let count = lines.iter().filter(mine).count();
        assert_eq!(count, 4, "{lines:#?}");
        assert!(
            lines
                .iter()
                .any(|line| line.contains("every_caller_is_found_by_name")),
            "{lines:#?}"
        );
        assert!(lines[0].contains("trace.rs:"), "{lines:#?}");
    }

    #[test]
    fn a_copy_ends_where_it_ends() {
        let stack = Stack {
            at: Registers {
                pc: 1,
                sp: 0x1000,
                fp: 0,
            },
            words: vec![10, 20],
        };
        assert_eq!(stack.read(0x1000), Some(10));
        assert_eq!(stack.read(0x1008), Some(20));
        assert_eq!([0xff8, 0x1004, 0x1010].map(|at| stack.read(at)), [None; 3]);
    }
}
