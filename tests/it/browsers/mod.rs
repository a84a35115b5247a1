//! What web pages can do: calls from pages of other origins.

mod cors;
