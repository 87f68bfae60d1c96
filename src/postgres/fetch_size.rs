//! How many rows to request when their size is not known in advance.

/// The size of the first request, and the least that later requests may grow to.
pub const FIRST_FETCH_SIZE: u32 = 512;

/// Returns how many rows fill `target_bytes`, if they are as large as the `rows` of `bytes` that have just
/// been received; at most four times as many as these (but see [`FIRST_FETCH_SIZE`]), and at most `most`.
pub fn next_fetch_size(rows: usize, bytes: usize, target_bytes: usize, most: u32) -> u32 {
    let each = (bytes / rows.max(1)).max(1);
    let fitting = u32::try_from(target_bytes / each).unwrap_or(u32::MAX);
    let grown = u32::try_from(rows).unwrap_or(u32::MAX).saturating_mul(4);
    fitting.clamp(1, grown.clamp(FIRST_FETCH_SIZE, most))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_fetch_fills_its_target_and_grows_fourfold_at_most() {
        let most = 16_384;
        assert_eq!(next_fetch_size(256, 256 * 100, 1 << 19, most), 1_024);
        assert_eq!(next_fetch_size(1_024, 1_024 * 1_024, 1 << 19, most), 512);
        assert_eq!(next_fetch_size(16_384, 16_384, 1 << 29, most), most);
        assert_eq!(next_fetch_size(1, 8 << 20, 1 << 19, most), 1);
        assert_eq!(next_fetch_size(600, 600 << 10, 1 << 20, most), 1_024);
        assert_eq!(next_fetch_size(600, 6_000, 1 << 20, most), 2_400);
        assert_eq!(next_fetch_size(10, 1_000_000, 1 << 20, most), 10);
        assert_eq!(next_fetch_size(1, 8 << 20, 1 << 20, most), 1);
        assert_eq!(next_fetch_size(0, 0, 1 << 20, most), FIRST_FETCH_SIZE);
        assert_eq!(next_fetch_size(4_000, 4_000, 1 << 20, 5_000), 5_000);
    }
}
