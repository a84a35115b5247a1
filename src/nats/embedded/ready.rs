//! Waits until the server is ready: a client can connect, and JetStream answers it.

use std::time::Duration;

use super::config::{ListenAddress, USER};

const RETRY_AFTER: Duration = Duration::from_millis(20);
const ANSWER_WITHIN: Duration = Duration::from_secs(2);

/// Waits until JetStream answers. The caller bounds the wait.
pub(super) async fn jetstream(listen_address: &ListenAddress) {
    loop {
        match answer(listen_address).await {
            Ok(()) => return,
            Err(error) => tracing::trace!(%error, "the embedded nats-server is not ready yet"),
        }
        tokio::time::sleep(RETRY_AFTER).await;
    }
}

async fn answer(listen_address: &ListenAddress) -> Result<(), async_nats::Error> {
    // not by the URL, because the client ignores the password in it, and logs it
    let client = async_nats::ConnectOptions::with_user_and_password(USER.into(), listen_address.password.clone())
        .connection_timeout(ANSWER_WITHIN)
        .request_timeout(Some(ANSWER_WITHIN))
        .connect(listen_address.address())
        .await?;
    async_nats::jetstream::new(client).query_account().await?;
    Ok(())
}
