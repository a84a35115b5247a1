//! Who calls: tokens, and the keys that verify them.

mod attacks;
mod callers;
mod claims;
mod keys;
mod log;
mod tokens;
