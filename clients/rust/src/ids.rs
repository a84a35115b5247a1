//! Ids that nobody else has.

use tonic::Code;

use crate::error::{Error, Result};

/// 128 random bits as text.
pub(crate) fn random_id() -> Result<String> {
    let mut bits = [0; 16];
    getrandom::fill(&mut bits)
        .map_err(|error| Error::unsent(Code::Unavailable, format!("no random numbers: {error}")))?;
    Ok(format!("{:032x}", u128::from_ne_bytes(bits)))
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
