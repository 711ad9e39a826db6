//! Tollgate monitor.
#![cfg_attr(not(test), no_std)]
