//! What changes while the service runs, when its configuration is read again.

use std::sync::Arc;

use super::{callers::Callers, config::Config, cors::CrossOriginLayer};
use crate::{auth::Auth, error::Result, rooms::Rooms};

/// The components with values that may change. Each of them reads its values at use, without a lock.
#[derive(Debug)]
pub(super) struct Live {
    pub auth: Auth,
    pub callers: Arc<Callers>,
    pub origins: CrossOriginLayer,
    pub rooms: Rooms,
}

impl Live {
    /// Puts the values of `config` that may change in force, all or none.
    ///
    /// # Errors
    /// `INVALID_FIELD`, which names the fields with values that their flags refuse. Nothing has changed.
    pub(super) fn reload(&self, mut config: Config) -> Result<()> {
        // the defaults of the limits depend on the mode, which changes only with a restart
        config.auth.mode = self.auth.mode();
        let config = config.checked()?;
        // the last step that can fail
        self.auth.set_rules(&config.auth)?;
        self.origins.set(&config.cors);
        self.callers.set_max(config.rooms.limits.calls);
        self.rooms.set_bounds(&config.rooms);
        Ok(())
    }
}
