//! The program's heap: the system's allocator with a count of what is held, so that `-v` can tell the most.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// Bytes that are held now.
static LIVE: AtomicUsize = AtomicUsize::new(0);
/// The most that were held at once.
static PEAK: AtomicUsize = AtomicUsize::new(0);

#[global_allocator]
static HEAP: Counting = Counting;

struct Counting;

/// The most bytes that the program held on its heap at once; files that are mapped and the GPU's memory do not count.
pub(crate) fn peak() -> usize {
    PEAK.load(Relaxed)
}

/// Counts what the allocator gave, if it gave it.
fn count(at: *mut u8, bytes: usize) -> *mut u8 {
    if !at.is_null() {
        let live = LIVE.fetch_add(bytes, Relaxed) + bytes;
        if live > PEAK.load(Relaxed) {
            PEAK.fetch_max(live, Relaxed);
        }
    }
    at
}

#[expect(
    unsafe_code,
    reason = "a global allocator cannot be written without: every call is handed to the system's allocator with the \
              caller's own arguments, so its contract is kept as the caller keeps it; what is added only counts, in \
              atomic numbers that neither allocate nor unwind"
)]
// SAFETY: as said above.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(unsafe { System.alloc(layout) }, layout.size())
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(unsafe { System.alloc_zeroed(layout) }, layout.size())
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        LIVE.fetch_sub(layout.size(), Relaxed);
        unsafe { System.dealloc(at, layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        let new = unsafe { System.realloc(at, layout, size) };
        if !new.is_null() {
            // Both blocks may have been held while one was copied.
            count(new, size);
            LIVE.fetch_sub(layout.size(), Relaxed);
        }
        new
    }
}
