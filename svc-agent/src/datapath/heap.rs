//! Memory of this process that the allocator keeps for later.

/// Gives freed memory back to the kernel. Reading the state of a large cluster for the first time takes half as much again
/// as keeping it, and the allocator would hold on to that for as long as the agent runs.
pub fn give_back() {
    #[cfg(target_env = "gnu")]
    {
        // SAFETY: it takes the allocator's own locks and touches only what nobody has allocated.
        unsafe { libc::malloc_trim(0) };
    }
}
