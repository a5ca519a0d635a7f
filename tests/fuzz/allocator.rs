//! Counts what each thread allocates, so that an input that makes the library ask for too much is known by name.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::io::Write;

/// Most bytes that one input may hold at once.
pub(crate) const MOST: usize = 256 << 20;
/// Beyond this an allocation is refused, which ends the process: better than the machine.
const REFUSED: isize = 4 << 30;

thread_local! {
    // `const` and without a destructor, so that looking at them never allocates.
    static LIVE: Cell<isize> = const { Cell::new(0) };
    static PEAK: Cell<isize> = const { Cell::new(0) };
    static CURRENT: Cell<(&'static str, u64)> = const { Cell::new(("", 0)) };
}

/// The system's allocator with a count for each thread.
pub(crate) struct Counting;

/// Starts the count of one input of a target.
pub(crate) fn begin(target: &'static str, number: u64) {
    CURRENT.set((target, number));
    LIVE.set(0);
    PEAK.set(0);
}

/// Most bytes held at once since [`begin`] by what this thread allocated since then.
pub(crate) fn peak() -> usize {
    usize::try_from(PEAK.get()).unwrap_or(0)
}

/// Notes `bytes` more; false where that is too much.
fn grow(bytes: usize) -> bool {
    let live = LIVE.get().saturating_add(isize::try_from(bytes).unwrap_or(isize::MAX));
    if live > REFUSED {
        let (target, number) = CURRENT.get();
        // Neither a panic nor an allocation is possible here; stderr is written without either.
        let mut text = [0u8; 160];
        let mut rest = &mut text[..];
        let _ = write!(rest, "\nfuzz: {target} input {number} asks for {bytes} bytes; see SELFREWARD_FUZZ_ONLY\n");
        let left = rest.len();
        let _ = std::io::stderr().write_all(&text[..text.len() - left]);
        return false;
    }
    LIVE.set(live);
    PEAK.set(PEAK.get().max(live));
    true
}

fn shrink(bytes: usize) {
    LIVE.set(LIVE.get() - bytes as isize);
}

#[expect(
    unsafe_code,
    reason = "a global allocator cannot be written without: every call is handed to the system's allocator with the \
              caller's own arguments, so its contract is kept as the caller keeps it; what is added only counts, \
              in cells that neither allocate nor unwind"
)]
// SAFETY: as said above; a refused request gives null, which the contract of `GlobalAlloc` allows.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if grow(layout.size()) { unsafe { System.alloc(layout) } } else { std::ptr::null_mut() }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        shrink(layout.size());
        unsafe { System.dealloc(at, layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        if grow(layout.size()) { unsafe { System.alloc_zeroed(layout) } } else { std::ptr::null_mut() }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        if !grow(size) {
            return std::ptr::null_mut();
        }
        shrink(layout.size());
        unsafe { System.realloc(at, layout, size) }
    }
}
