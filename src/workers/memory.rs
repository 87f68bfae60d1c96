//! The memory that the WASM instance holds.

/// Bytes of WASM memory, in pages of 64 KiB. It never shrinks, so that this is also the most that
/// was ever needed (WebAssembly specification, "memory.grow"). 0 outside of WASM.
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
