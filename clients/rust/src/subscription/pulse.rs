//! Notices that the own process stood still (U17).

use std::time::{Duration, SystemTime};

use tokio::time::Instant;

/// How often the pulse is felt.
pub(super) const PULSE: Duration = Duration::from_secs(1);
/// After a longer pause the watchdog begins again.
const PAUSE_SHORT: Duration = Duration::from_secs(2);
/// After a longer pause the service is asked whether it is still there.
const PAUSE_LONG: Duration = Duration::from_secs(5);

/// When the process was last seen running, by two clocks: one of them stands still while a computer sleeps.
#[derive(Debug)]
pub(super) struct Pulse {
    at: Instant,
    wall: SystemTime,
}

/// How long the process stood still.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Pause {
    None,
    Short,
    Long,
}

impl Pulse {
    pub(super) fn new() -> Self {
        Self { at: Instant::now(), wall: SystemTime::now() }
    }

    /// The pause since the pulse was last felt.
    pub(super) fn pause(&self, at: Instant, wall: SystemTime) -> Pause {
        match at.duration_since(self.at).max(wall.duration_since(self.wall).unwrap_or_default()) {
            long if long > PAUSE_LONG => Pause::Long,
            short if short > PAUSE_SHORT => Pause::Short,
            _ => Pause::None,
        }
    }

    /// Feels the pulse, and returns the pause before it.
    pub(super) fn feel(&mut self, at: Instant, wall: SystemTime) -> Pause {
        let pause = self.pause(at, wall);
        *self = Self { at, wall };
        pause
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_shows_on_either_clock() {
        let (at, wall) = (Instant::now(), SystemTime::now());
        for (monotonic, system, pause) in
            [(1, 1, Pause::None), (3, 3, Pause::Short), (5, 5, Pause::Short), (6, 0, Pause::Long), (0, 60, Pause::Long)]
        {
            let mut pulse = Pulse { at, wall };
            let (at, wall) = (at + Duration::from_secs(monotonic), wall + Duration::from_secs(system));
            assert_eq!(pulse.feel(at, wall), pause, "{monotonic} {system}");
            assert_eq!(pulse.feel(at, wall), Pause::None);
        }
        let earlier = wall - Duration::from_secs(60);
        assert_eq!(Pulse { at, wall }.feel(at, earlier), Pause::None, "a clock that was set back");
    }
}
