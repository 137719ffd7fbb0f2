//! What only unsafe code can do: a heap that counts.
#![expect(unsafe_code, reason = "an allocator is unsafe to write")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::atomic::{AtomicU64, Ordering};

static CALLS: AtomicU64 = AtomicU64::new(0);

thread_local! {
    static IS_EXEMPT: Cell<bool> = const { Cell::new(false) };
    static HELD: Cell<isize> = const { Cell::new(0) };
}

/// The system's allocator, which counts what threads ask of it. For `#[global_allocator]`.
#[derive(Debug, Default)]
pub struct CountingHeap;

impl CountingHeap {
    /// How often any thread that is not exempt has taken memory, resized it or given it back.
    pub fn calls() -> u64 {
        CALLS.load(Ordering::SeqCst)
    }

    /// What this thread does is not counted from now on.
    pub fn exempt_this_thread() {
        IS_EXEMPT.set(true);
    }

    /// Bytes that this thread has taken and not given back; what it has given back for others is less.
    pub fn held() -> isize {
        HELD.get()
    }

    fn count(taken: usize, given_back: usize) {
        let change = taken.wrapping_sub(given_back).cast_signed();
        // A thread that ends has lost both already.
        let _ = HELD.try_with(|held| held.set(held.get().wrapping_add(change)));
        if !IS_EXEMPT.try_with(Cell::get).unwrap_or(true) {
            CALLS.fetch_add(1, Ordering::SeqCst);
        }
    }
}

// SAFETY: the system's allocator does everything; counting neither allocates nor panics.
unsafe impl GlobalAlloc for CountingHeap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        Self::count(layout.size(), 0);
        // SAFETY: the caller's promise, passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        Self::count(layout.size(), 0);
        // SAFETY: the caller's promise, passed on.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        Self::count(size, layout.size());
        // SAFETY: the caller's promise, passed on.
        unsafe { System.realloc(pointer, layout, size) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        Self::count(0, layout.size());
        // SAFETY: the caller's promise, passed on.
        unsafe { System.dealloc(pointer, layout) }
    }
}
