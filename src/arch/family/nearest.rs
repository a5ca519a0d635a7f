//! The nearest of the names that are known to one that is not.

/// The name of those known that is nearest to `name`, if one is near: by how long both begin alike, then by how many
/// letters differ.
pub(crate) fn nearest<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let measured = known.into_iter().map(|other| (alike(name, other), edits(name, other), other));
    let best = measured.min_by_key(|(alike, edits, _)| (std::cmp::Reverse(*alike), *edits));
    best.filter(|(alike, edits, other)| *alike >= 3 || edits * 3 <= name.len().max(other.len())).map(|found| found.2)
}

/// How many letters both begin with; what only divides them is none.
fn alike(a: &str, b: &str) -> usize {
    a.bytes().zip(b.bytes()).take_while(|(a, b)| a == b).filter(|(a, _)| *a != b'_').count()
}

/// How many letters are to be put in, left out or changed to make one of the other (Levenshtein's distance). Of a long
/// name its beginning counts.
fn edits(a: &str, b: &str) -> usize {
    let [a, b] = [a, b].map(|name| &name.as_bytes()[..name.len().min(64)]);
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.iter().enumerate() {
        let mut before = i;
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let changed = before + usize::from(x != y);
            before = row[j + 1];
            row[j + 1] = changed.min(row[j] + 1).min(before + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arch::family::FAMILIES;

    #[test]
    fn names_are_near_by_their_beginnings_and_letters() {
        let known = || FAMILIES.iter().map(|family| family.model_type);
        for (name, want) in [
            ("qwen3_moe_vl", Some("qwen3_moe")),
            ("qwen3_next", Some("qwen3_5_text")),
            ("qwen3_5_moe_text", Some("qwen3_5_text")),
            ("qwen2_moe", Some("qwen2")),
            ("llama4_text", Some("llama")),
            ("gemma", Some("gemma2")),
            ("gemma4_text", Some("gemma3_text")),
            ("mixtral", Some("mistral")),
            ("phimoe", Some("phi3")),
            ("smollm", Some("smollm3")),
            ("granitemoeshared", Some("granitemoehybrid")),
            ("lfm2_moe", Some("lfm2")),
            ("deepseek_v3", None),
            ("mamba", None),
            ("", None),
        ] {
            assert_eq!(nearest(name, known()), want, "{name}");
        }
        assert_eq!((edits("kitten", "sitting"), edits("", "ab"), alike("phi3", "phi4")), (3, 2, 3));
    }
}
