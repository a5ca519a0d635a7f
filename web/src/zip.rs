//! Zip files, in which nothing is compressed.

/// The moment that all entries tell: the first that the format knows, so that equal files give equal bytes.
const DATE: u16 = 1 << 5 | 1;

/// A zip file of these names and bytes.
pub(crate) fn stored(files: impl Iterator<Item = (String, Vec<u8>)>, crc32: fn(&[u8]) -> u32) -> Vec<u8> {
    let (mut all, mut directory, mut count) = (Vec::new(), Vec::new(), 0u16);
    for (name, bytes) in files {
        let at = all.len() as u32;
        let mut facts = Vec::new();
        // Version 2.0; names in UTF-8; not compressed; midnight of the first day.
        [20, 1 << 11, 0, 0, DATE].iter().for_each(|n: &u16| facts.extend(n.to_le_bytes()));
        let size = bytes.len() as u32;
        [crc32(&bytes), size, size].iter().for_each(|n| facts.extend(n.to_le_bytes()));
        facts.extend((name.len() as u16).to_le_bytes());
        facts.extend([0; 2]);
        all.extend(b"PK\x03\x04");
        all.extend(&facts);
        all.extend(name.as_bytes());
        all.extend(&bytes);
        directory.extend(b"PK\x01\x02");
        directory.extend(20u16.to_le_bytes());
        directory.extend(&facts);
        // No comment, the first disk, no attributes.
        directory.extend([0; 10]);
        directory.extend(at.to_le_bytes());
        directory.extend(name.as_bytes());
        count += 1;
    }
    let (at, size) = (all.len() as u32, directory.len() as u32);
    all.extend(directory);
    all.extend(b"PK\x05\x06\0\0\0\0");
    [count, count].iter().for_each(|n| all.extend(n.to_le_bytes()));
    [size, at].iter().for_each(|n| all.extend(n.to_le_bytes()));
    all.extend([0; 2]);
    all
}
