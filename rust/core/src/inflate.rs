//! Encoded answers, decoded on the side to read their usage: bounded, and never what is relayed.

use std::io::Read;

use flate2::read::{DeflateDecoder, GzDecoder, ZlibDecoder};

/// Decoded bytes of one answer, at most.
pub const DECODED_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Decoded bytes for each encoded one, at most: JSON compresses about 5 to 10 times.
pub const RATIO_MAX: usize = 16;

/// Decode `body`, or None where the encoding is unknown, broken or too dense.
#[must_use]
pub fn decode(encoding: &str, body: &[u8]) -> Option<Vec<u8>> {
    match encoding.trim().to_ascii_lowercase().as_str() {
        "gzip" | "x-gzip" => bounded(GzDecoder::new(body), body.len()),
        // Both are seen under this name: with the zlib wrapper (RFC 9110) and without.
        "deflate" => bounded(ZlibDecoder::new(body), body.len())
            .or_else(|| bounded(DeflateDecoder::new(body), body.len())),
        _ => None,
    }
}

fn bounded(decoder: impl Read, encoded_bytes: usize) -> Option<Vec<u8>> {
    let bytes_max = DECODED_BYTES_MAX.min(encoded_bytes.saturating_mul(RATIO_MAX));
    let mut plain = Vec::new();
    let read = decoder.take(bytes_max as u64 + 1).read_to_end(&mut plain).ok()?;
    (read <= bytes_max).then_some(plain)
}
