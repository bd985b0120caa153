//! Tests on the running kernel: they need root, and each makes a sandbox of its own.
#![forbid(unsafe_code)]

mod audit;
mod budgets;
mod cases;
mod clock;
mod connect;
mod connections;
mod containers;
mod control;
mod datagrams;
mod demo;
mod endurance;
mod hooks;
mod identity;
mod leftovers;
mod listens;
mod log;
mod namespaces;
mod pasta;
mod pins;
mod pods;
mod privileges;
mod raw;
mod reload;
mod runtimes;
mod servers;
mod shop;
mod software;
mod start;
mod systemd;
mod tunnels;
mod udp;
mod verdicts;
mod watch;
