//! Notices that the own process stood still (U17).

use std::time::{Duration, SystemTime};

use tokio::time::Instant;

/// How often the pulse is felt.
pub(super) const PULSE: Duration = Duration::from_secs(1);
/// After a longer pause the watchdog begins again.
pub(super) const PAUSE_SHORT: Duration = Duration::from_secs(2);
/// After a longer pause the service is asked whether it is still there.
pub(super) const PAUSE_LONG: Duration = Duration::from_secs(5);

/// When the process was last seen running, by two clocks: one of them stands still while a computer sleeps.
#[derive(Debug)]
pub(super) struct Pulse {
    at: Instant,
    wall: SystemTime,
}

impl Pulse {
    pub(super) fn new() -> Self {
        Self { at: Instant::now(), wall: SystemTime::now() }
    }

    /// The time since the pulse was last felt.
    pub(super) fn pause(&self, at: Instant, wall: SystemTime) -> Duration {
        at.duration_since(self.at).max(wall.duration_since(self.wall).unwrap_or_default())
    }

    /// Feels the pulse, and returns the time since it was last felt.
    pub(super) fn feel(&mut self) -> Duration {
        let now = Self::new();
        let pause = self.pause(now.at, now.wall);
        *self = now;
        pause
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_shows_on_either_clock() {
        let Pulse { at, wall } = Pulse::new();
        let pulse = Pulse { at, wall };
        let seconds = Duration::from_secs;
        for (monotonic, system, pause) in [(1, 1, 1), (7, 0, 7), (0, 60, 60)] {
            assert_eq!(pulse.pause(at + seconds(monotonic), wall + seconds(system)), seconds(pause));
        }
        assert_eq!(pulse.pause(at, wall - seconds(60)), Duration::ZERO, "a clock that was set back");
    }

    #[test]
    fn the_pulse_begins_again_when_it_was_felt() {
        let mut pulse = Pulse { at: Instant::now(), wall: SystemTime::now() - Duration::from_secs(60) };
        assert!(pulse.feel() > PAUSE_LONG && pulse.feel() < PAUSE_SHORT);
    }
}
