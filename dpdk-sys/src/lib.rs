//! Raw bindings to the system's libdpdk, generated at build time.
//!
//! Owns nothing but the declarations and `csrc/shim.c`, which gives DPDK's inline functions a
//! symbol and decides nothing. Only `src/dpdk` of gyre uses it; everything safe lives there.
#![allow(missing_docs, non_camel_case_types, non_snake_case, non_upper_case_globals)]
#![allow(clippy::all, clippy::undocumented_unsafe_blocks, unsafe_op_in_unsafe_fn)]

include!(concat!(env!("OUT_DIR"), "/bindings.rs"));

#[cfg(test)]
mod tests {
    use std::ffi::CStr;

    #[test]
    fn library_answers_with_a_version_we_support() {
        // SAFETY: rte_version returns a pointer to a static string and needs no EAL.
        let version = unsafe { CStr::from_ptr(super::rte_version()) }.to_str().unwrap();
        let mut numbers = version.trim_start_matches("DPDK ").split('.');
        let major: u32 = numbers.next().unwrap().parse().unwrap();
        assert!(major >= 22, "{version}");
    }

    #[test]
    fn bit_macros_and_mbuf_offsets_come_through() {
        assert!(super::GYRE_TX_OFFLOAD_FAST_FREE.is_power_of_two());
        assert_ne!(super::GYRE_MBUF_DATA_OFF, super::GYRE_MBUF_DATA_LEN);
    }
}
