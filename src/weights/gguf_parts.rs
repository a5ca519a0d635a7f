//! GGUF files in parts, `NAME-00001-of-0000N.gguf`: which files belong together, and all of them opened.

use std::path::Path;

use super::gguf::{Gguf, GgufValue};
use super::tensors::Mapped;
use crate::disk::OnDisk;
use crate::{Error, Result};

/// What the name of a part says.
#[derive(Debug, PartialEq)]
pub(crate) struct PartName<'a> {
    /// What stands before the numbers, with the folder.
    stem: &'a str,
    /// Which part it is, from 1.
    pub(crate) number: usize,
    /// How many there are.
    pub(crate) count: usize,
}

impl<'a> PartName<'a> {
    /// Reads a file's name; `None` if it is not that of a part.
    pub(crate) fn read(name: &'a str) -> Option<PartName<'a>> {
        let (base, ending) = name.split_at_checked(name.len().checked_sub(5)?)?;
        let (rest, count) = base.rsplit_once("-of-")?;
        let (stem, number) = rest.rsplit_once('-')?;
        let digits = |text: &str| {
            (text.len() == 5 && text.bytes().all(|b| b.is_ascii_digit())).then(|| text.parse().ok()).flatten()
        };
        let part = PartName { stem, number: digits(number)?, count: digits(count)? };
        (ending.eq_ignore_ascii_case(".gguf") && (1..=part.count).contains(&part.number)).then_some(part)
    }

    /// The names of all parts, in their order.
    pub(crate) fn all(&self) -> impl Iterator<Item = String> {
        (1..=self.count).map(|number| format!("{}-{number:05}-of-{:05}.gguf", self.stem, self.count))
    }
}

/// A GGUF file with its head.
pub(super) type OpenedPart = (Mapped, Gguf);

/// Opens a GGUF file and, if it is a part, those that belong to it; the first holds the metadata.
pub(super) fn open(path: &Path) -> Result<Vec<OpenedPart>> {
    let read = |path: &Path| {
        let file = Mapped::open(path)?;
        let head = Gguf::parse(&file)?;
        Ok::<_, Error>((file, head))
    };
    let count_of = |gguf: &Gguf, key: &str| gguf.get(key).and_then(GgufValue::as_usize);
    let one = read(path)?;
    let count = count_of(&one.1, "split.count").unwrap_or(1);
    if count <= 1 {
        return Ok(vec![one]);
    }
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let Some(part) = PartName::read(name).filter(|part| part.count == count) else {
        let what = format!(
            "is one of {count} parts of a model, but its name does not end in -NNNNN-of-{count:05}.gguf, by which the \
             others are found; give the parts their names back"
        );
        return Err(Error::file(path, what));
    };
    let mut parts = Vec::new();
    for (index, name) in part.all().enumerate() {
        let path = path.with_file_name(&name);
        if !path.is_there() {
            return Err(Error::file(path, format!("is missing: part {} of {count} of the model", index + 1)));
        }
        let (file, head) = read(&path)?;
        let (number, of) = (count_of(&head, "split.no"), count_of(&head, "split.count"));
        if (number, of) != (Some(index), Some(count)) {
            let say = |n: Option<usize>| n.map_or("nothing".into(), |n| n.to_string());
            let (number, of) = (say(number.map(|n| n.saturating_add(1))), say(of));
            let what = format!("is named part {} of {count}, but says that it is part {number} of {of}", index + 1);
            return Err(Error::file(path, what));
        }
        parts.push((file, head));
    }
    let found: usize = parts.iter().map(|(_, head)| head.tensors.len()).sum();
    match count_of(&parts[0].1, "split.tensors.count") {
        Some(want) if want != found => {
            Err(Error::file(path, format!("its {count} parts hold {found} tensors, not the {want} that they speak of")))
        }
        _ => Ok(parts),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_parts() {
        let part = PartName::read("q4/a-b-00002-of-00003.gguf").unwrap();
        assert_eq!((part.stem, part.number, part.count), ("q4/a-b", 2, 3));
        let all: Vec<String> = part.all().collect();
        assert_eq!(all[2], "q4/a-b-00003-of-00003.gguf");
        for other in [
            "a.gguf",
            "a-00000-of-00002.gguf",
            "a-00003-of-00002.gguf",
            "a-1-of-2.gguf",
            "gguf",
            "",
            "a-00001-of-00002.bin",
            "é.gguf",
            "-+0001-of-00002.gguf",
        ] {
            assert_eq!(PartName::read(other), None, "{other}");
        }
    }
}
