//! What web pages can do: calls from pages of other origins, and the console.

mod console;
mod cors;
mod events;
