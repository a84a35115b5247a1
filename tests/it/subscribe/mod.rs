//! Subscribing: where a subscription starts, what it delivers, and how it resumes.

mod basic;
mod ephemeral;
mod gaps;
mod property;
mod resume;
mod ring_removal;
mod since;
mod slow_subscriber;
mod start;
mod upstream;
