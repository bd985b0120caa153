//! The programs that enforcer loads into the kernel, as one object.
//!
//! [`hooks`] holds one file per hook family, each of the form: read facts, decide, record, return. Raw kernel
//! memory is read in [`ctx`] and nowhere else, maps are declared in [`maps`] and nowhere else, sockets are looked
//! up in [`sockets`], and [`record`] counts decisions and writes events.
#![no_std]
#![feature(asm_experimental_arch)]
#![no_main]

mod ctx;
mod hooks;
mod maps;
mod record;
mod sockets;

/// Helpers that read the clock and the task are reserved for GPL-compatible programs.
#[unsafe(no_mangle)]
#[unsafe(link_section = "license")]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    // The verifier refuses a program in which this can be reached.
    loop {}
}
