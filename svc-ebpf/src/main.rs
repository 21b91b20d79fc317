//! The kernel programs.
#![no_std]
