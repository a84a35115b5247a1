//! The Connect protocol: the same calls with JSON, with curl and `fetch`.

mod both_ways;
mod bounds;
mod calls;
mod compression;
mod fuzz;
mod heads;
mod pages;
mod streams;
