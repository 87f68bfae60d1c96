//! The memory that the WASM instance holds.

/// The size of the WASM memory in bytes, a multiple of 64 KiB. It never shrinks, so this is also
/// the most that was ever needed (WebAssembly specification, "memory.grow"). 0 outside of WASM.
pub(crate) fn wasm_bytes() -> usize {
    #[cfg(target_arch = "wasm32")]
    {
        core::arch::wasm32::memory_size(0) << 16
    }
    #[cfg(not(target_arch = "wasm32"))]
    {
        0
    }
}
