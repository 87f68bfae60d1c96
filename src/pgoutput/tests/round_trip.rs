use proptest::collection::vec;
use proptest::prelude::*;

use super::encode::{any_message, encode};
use crate::pgoutput::{decode, decode_prefix};

proptest! {
    #[test]
    fn every_message_decodes_to_what_was_encoded(message in any_message()) {
        let bytes = encode(&message);
        prop_assert_eq!(decode(&bytes), Ok(message));
    }

    #[test]
    fn arbitrary_bytes_neither_panic_nor_loop(
        tag in prop_oneof![any::<u8>(), prop::sample::select(b"BCORYIUDTM".to_vec())],
        mut bytes in vec(any::<u8>(), 0..200),
        more in 0..1_000_usize,
    ) {
        bytes.insert(0, tag);
        if let Ok(message) = decode(&bytes) {
            let encoded = encode(&message);
            prop_assert_eq!(decode(&encoded), Ok(message));
        }
        let _ = decode_prefix(&bytes, bytes.len() + more);
    }
}
