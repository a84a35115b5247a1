//! Ids that nobody else has.

use std::fmt::Write;

use tonic::Code;

use crate::error::{Error, Result};

/// 128 random bits as text.
pub(crate) fn random_id() -> Result<String> {
    let mut bits = [0; 16];
    getrandom::fill(&mut bits)
        .map_err(|error| Error::unsent(Code::Unavailable, format!("no random numbers: {error}")))?;
    Ok(bits.iter().fold(String::with_capacity(32), |mut id, byte| {
        let _ = write!(id, "{byte:02x}");
        id
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_have_128_bits_and_differ() {
        let (Ok(one), Ok(other)) = (random_id(), random_id()) else { unreachable!() };
        assert_eq!((one.len(), other.len()), (32, 32));
        assert_ne!(one, other);
    }
}
