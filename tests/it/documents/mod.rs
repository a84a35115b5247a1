//! The documents, the contract and the map of the code are true.

mod architecture;
mod config_file;
mod contract;
mod monitoring;
mod names;
mod openapi;
mod pages;
mod source;
mod tables;
