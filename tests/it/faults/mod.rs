//! NATS, the network, disks and processes fail.

mod full_disk;
mod full_store;
mod half_way;
mod kills;
mod nats;
mod network;
mod process;
mod publishers;
mod purge;
mod registry_reads;
mod silence;
mod stale_answers;
mod stall;
