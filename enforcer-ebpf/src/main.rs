//! The programs that enforcer loads into the kernel, as one object.
//!
//! [`hooks`] holds one file per hook family, each of the form: read facts, decide, record, return. Raw kernel
//! memory is read in [`ctx`] and nowhere else, maps are declared in [`maps`] and nowhere else, sockets are looked
//! up in [`sockets`], and [`record`] counts decisions and writes events.
#![no_std]
#![feature(asm_experimental_arch)]
#![no_main]
// A wildcard arm would decide for a variant that nobody has written yet.
#![deny(clippy::wildcard_enum_match_arm)]
#![expect(
    clippy::needless_pass_by_value,
    reason = "the kernel's calling convention hands contexts over by value"
)]
#![expect(
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    clippy::cast_sign_loss,
    reason = "sizes of types, small constants and masked bits; a conversion that may fail is a branch to verify"
)]

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
