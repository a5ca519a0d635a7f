//! The language that the reference's detector sees in a text all in capitals. It reads of each word the first letter
//! and the last one alone, and takes English for German where many words begin like German nouns.

/// What no language that may be asked for is called.
pub(super) const OTHER: &str = "other";

/// How much a letter speaks for a language: as the first one of a word, as the last one, and as a word by itself.
/// Fitted to that detector's verdicts on English texts by tests/golden/make/capitals.py.
const WEIGHTS: [(&str, [[i8; 26]; 3]); 8] = [
    (
        "de",
        [
            [-9, 13, -28, 40, 20, 27, 24, 7, -22, 12, 17, 5, 0, 3, 10, 0, -23, 17, 16, -18, 16, 27, 23, -39, -38, 29],
            [-4, 27, 6, 9, -11, 12, 30, 6, -2, -4, -1, -8, 0, -2, -13, 4, 23, 15, 23, -4, 3, 7, 2, 10, 2, -2],
            [-30, 24, -30, 39, 0, 33, 31, -5, -12, 7, 8, -41, -18, 6, -28, 0, -18, 8, 45, -6, -2, -3, 8, -36, -10, 20],
        ],
    ),
    (
        "en",
        [
            [0, 1, 17, 3, 4, 14, 5, 5, 16, 17, -10, 3, 1, 11, 3, 2, -15, 12, 4, 18, 14, -6, 18, -37, 15, -1],
            [4, 7, 12, 7, 6, 8, -1, 0, 5, 0, 17, 11, 18, -6, 3, 5, -15, 8, 5, 10, 3, 9, 1, 7, -2, -7],
            [7, 17, 15, 0, 8, 12, -3, 8, 18, 3, 0, -2, 11, 1, -12, 7, 4, -1, 14, 29, 3, -1, 9, -19, -5, -6],
        ],
    ),
    (
        "hu",
        [
            [8, -2, 1, 0, -1, 7, -15, -6, 6, 10, -3, -7, -1, 6, -4, 6, -14, -3, 5, 1, -8, 3, -6, -6, 0, 0],
            [15, -1, -2, -5, -3, 4, -7, -3, 13, -4, 4, 4, 8, -1, -10, 4, -1, -6, -3, 1, -11, -6, -3, -3, -2, -7],
            [40, 8, -1, -4, -6, 8, -3, -1, 5, -1, -1, -6, -10, -8, -2, -10, -14, -1, -34, 14, -9, -17, -6, -7, -2, -9],
        ],
    ),
    (
        OTHER,
        [
            [-4, 2, 12, -14, 15, 1, 7, -3, 15, -16, 33, 13, 10, -15, -3, 7, -8, 8, 1, -8, 17, -5, 14, 11, 36, -12],
            [-6, 0, 10, 5, -1, 2, -5, 7, 1, 15, 11, 14, 11, -9, 10, 5, 0, -9, -3, 3, 4, 8, 6, 13, 1, 21],
            [-30, 10, 8, -25, 6, 22, 14, 0, 26, -2, 13, 52, 12, -19, -4, -16, -1, 2, -5, -7, 24, -2, 8, 14, 14, 1],
        ],
    ),
    (
        "pt",
        [
            [-5, -7, 13, -4, 13, 11, -2, -20, -14, 15, -27, -3, -1, -4, 27, 11, -2, 3, -6, -10, 6, 9, -32, 6, -14, -2],
            [5, -2, 8, 4, 1, -1, 1, -3, 6, -1, 4, -11, -6, -13, 26, 1, -1, -5, -2, 8, -15, -4, -6, -18, -7, -9],
            [22, -13, 7, -3, 11, -20, -8, -3, -9, -1, -2, -8, -6, -2, 52, 12, -5, -1, 2, -7, -3, -15, -4, -6, -2, -4],
        ],
    ),
    (
        "so",
        [
            [1, -10, -4, 12, -12, -14, 2, -1, 3, 9, 5, -16, 3, -11, -11, -58, 29, -11, 2, -25, -9, -26, 26, 47, 26, -6],
            [-5, -7, -16, 2, 9, -11, 0, 14, -23, -1, -15, -1, -30, 16, 9, 3, -1, 8, -1, -5, 1, -9, -15, -2, 17, 14],
            [
                -2, -17, -4, -3, -12, -16, -2, -2, -25, -1, -11, -3, 8, -8, -2, -8, 21, -1, 12, -12, -2, -2, -6, 35,
                -11, 4,
            ],
        ],
    ),
    (
        "tl",
        [
            [
                23, 3, -32, -17, -4, -27, -11, -12, 22, -12, 4, -9, -9, -28, -9, 16, -19, -11, -5, 7, -10, -34, -18,
                -4, -4, -4,
            ],
            [
                -1, -19, -3, -11, -9, -14, -18, -25, 1, -4, -23, -8, -3, 9, -21, -20, -4, -4, -10, -10, 5, -7, 15, -3,
                -6, -9,
            ],
            [
                39, -12, -20, -4, -5, -12, -4, -4, 3, -4, -4, -4, -6, -6, -4, 3, -13, -4, -25, -43, -11, -11, -4, -4,
                -4, -6,
            ],
        ],
    ),
    (
        "vi",
        [
            [
                -14, 1, 21, -20, -35, -19, -10, 28, -25, -35, -19, 13, -3, 39, -14, 16, 52, -16, -16, 35, -26, 31, -26,
                23, -20, -3,
            ],
            [-8, -5, -14, -11, 8, 1, -1, 6, -2, 0, 3, -3, 2, 5, -6, -2, -1, -7, -9, -2, 10, 1, 0, -4, -3, -1],
            [-46, -15, 24, 0, -1, -27, -25, 6, -6, -1, -3, 13, 10, 36, 0, 13, 26, -2, -10, 34, 0, 50, -5, 23, 21, -1],
        ],
    ),
];

/// The language of a text in capitals; `None` where it has no Latin words.
pub(super) fn detect(text: &str) -> Option<&'static str> {
    let mut sums = [0i64; WEIGHTS.len()];
    let mut words = 0;
    for word in text.split(|c: char| !c.is_ascii_uppercase()).map(str::as_bytes) {
        let letters = match word {
            [] => continue,
            [only] => vec![(2, only)],
            [first, .., last] => vec![(0, first), (1, last)],
        };
        words += 1;
        for (sum, (_, weights)) in sums.iter_mut().zip(&WEIGHTS) {
            *sum +=
                letters.iter().map(|(at, letter)| i64::from(weights[*at][usize::from(*letter - b'A')])).sum::<i64>();
        }
    }
    let best = (0..WEIGHTS.len()).max_by_key(|i| sums[*i])?;
    (words > 0).then_some(WEIGHTS[best].0)
}

#[cfg(test)]
mod tests {
    use super::detect;

    #[test]
    fn texts_in_capitals_are_taken_for_what_langdetect_takes_them() {
        // By langdetect 1.0.9.
        for (text, language) in [
            ("I AM A CAT AND I LIKE TO SLEEP IN THE SUN ALL DAY LONG.", "en"),
            ("THE WEATHER IS NICE TODAY AND WE ARE GOING TO THE PARK WITH OUR FRIENDS.", "en"),
            ("DEAR SIR, I AM WRITING TO TELL YOU THAT THE MEETING IS ON MONDAY.", "en"),
            ("WE BAKE BREAD EVERY MORNING AND SELL IT TO THE PEOPLE OF THE TOWN.", "en"),
            ("GRAND SUMMER FURNITURE SALE: FRIENDS, FAMILIES, KIDS, GARDENS", "de"),
            ("BUSINESS GERMAN REQUIRES SERIOUS LEARNING STRATEGIES", "de"),
        ] {
            assert_eq!(detect(text), Some(language), "{text}");
        }
        assert_eq!(detect("ÄÖ 12"), None);
    }
}
