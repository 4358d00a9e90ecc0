#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| catga_fuzz::settings(bytes));
