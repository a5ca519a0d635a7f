use super::*;
use proptest::prelude::*;

/// The rows of a table: what is right, and the verdict.
fn rows(table: &str) -> Vec<(&str, String)> {
    let rows = table.lines().filter(|line| !line.starts_with('#') && !line.is_empty());
    rows.map(|row| row.split_once('\t').unwrap_or_else(|| panic!("{row:?} has no tab")))
        .map(|(right, text)| (right, text.replace('⏎', "\n")))
        .collect()
}

fn compare(table: &str, read: impl Fn(&str) -> String) {
    let rows = rows(table);
    let wrong: Vec<String> = rows
        .iter()
        .map(|(right, text)| (right, text, read(text)))
        .filter(|(right, _, got)| *right != got)
        .map(|(right, text, got)| format!("{right}, not {got}: {text:?}"))
        .collect();
    assert!(wrong.is_empty(), "{} of {} verdicts are read wrongly:\n{}", wrong.len(), rows.len(), wrong.join("\n"));
}

#[test]
fn every_verdict_of_the_table_is_read_as_it_is_meant() {
    compare(include_str!("scores.tsv"), |text| parse_score(text).map_or("none".into(), |score| score.to_string()));
}

#[test]
fn every_choice_of_the_table_is_read_as_it_is_meant() {
    compare(include_str!("choices.tsv"), |text| match parse_choice(text) {
        Ok(p) => {
            [(1.0, "A"), (0.0, "B"), (0.5, "tie")].into_iter().find(|(q, _)| *q == p).map_or("?", |(_, n)| n).into()
        }
        Err(_) => "none".into(),
    });
}

#[test]
fn a_verdict_without_a_score_says_why() {
    for (verdict, why) in [
        ("", NoScore::Empty),
        ("  \n", NoScore::Empty),
        ("A good answer, 4 of 5.", NoScore::Missing),
        ("<think>Score: 4", NoScore::Missing),
        ("Score: <total points>", NoScore::NoNumber),
        ("Score:", NoScore::NoNumber),
        ("Score: high", NoScore::NoNumber),
        ("Score: 2-4", NoScore::NoNumber),
        ("Score: 4. Score: none", NoScore::NoNumber),
        ("Score: 6", NoScore::OutOfRange),
        ("Score: -1", NoScore::OutOfRange),
        ("Score: 4/10", NoScore::OtherScale),
        ("Score (out of 10): 4", NoScore::OtherScale),
        ("Score: 3%", NoScore::OtherScale),
        ("Score: 1 + 1 = 3", NoScore::Unequal),
    ] {
        assert_eq!(parse_score(verdict), Err(why), "{verdict:?}");
    }
    assert_eq!(parse_choice(" "), Err(NoScore::Empty));
    assert_eq!(parse_choice("Both are fine."), Err(NoScore::NoChoice));
}

#[test]
fn marks_before_a_score_are_no_part_of_it() {
    for points in 0..32u32 {
        let mark = |(i, letter)| if points >> i & 1 == 1 { letter } else { '-' };
        let marks: String = "ECLHX".chars().enumerate().map(mark).collect();
        let verdict = format!("{marks} Score: {}", points.count_ones());
        assert_eq!(parse_score(&verdict), Ok(f64::from(points.count_ones())), "{verdict:?}");
    }
}

#[test]
fn the_words_of_a_prompt_of_ones_own_end_a_verdict() {
    let own =
        Openings::of("You grade essays of pupils.\n\nEssay: {{ answer }}\nTask:\n{{ question }}\n\nEnd with a grade.");
    let first = |verdict: &str| read_score(verdict, &own, false).map(|reading| reading.value);
    for words in ["You grade essays of pupils. Be kind.", "Essay: a", "task:\nb", "**Essay:** a", "End with a grade."] {
        assert_eq!(first(&format!("Score: 2\n\n{words}\nScore: 5")), Ok(2.0), "{words:?}");
        assert_eq!(parse_score(&format!("It is short.\n{words}\nScore: 5")), Ok(5.0), "{words:?}");
        assert_eq!(first(&format!("It is short.\n{words}\nScore: 5")), Err(NoScore::Missing), "{words:?}");
    }
}

#[test]
fn a_prompt_that_opens_a_thought_is_known() {
    for (prompt, open) in [
        ("<|assistant|>\n<think>\n", true),
        ("assistant\n<thinking>", true),
        ("[THINK]", true),
        ("<|begin_of_thought|>", true),
        ("<think>\n\n</think>\n\n", false),
        ("<think> first", false),
        ("assistant\n", false),
        ("", false),
    ] {
        assert_eq!(leaves_thought_open(prompt), open, "{prompt:?}");
    }
    let read = |verdict| read_score(verdict, &ADDITIVE, true).map(|reading| reading.value);
    assert_eq!(read("Perhaps Score: 5\n</think>\nScore: 2"), Ok(2.0));
    assert_eq!(read("Perhaps\nScore: 5"), Err(NoScore::Missing));
    assert_eq!(read("<think>Perhaps\nScore: 5</think>Score: 2"), Ok(2.0));
}

/// What verdicts are made of, so that random texts reach far into the grammar.
const PIECES: [&str; 72] = [
    "Score",
    "score",
    "Scores",
    "Better",
    "better",
    ":",
    "：",
    " = ",
    " is ",
    " of ",
    " - ",
    "-",
    "–",
    "→",
    "~",
    "+",
    " + ",
    "(",
    ")",
    "[",
    "]",
    "{",
    "}",
    "<",
    ">",
    "\"",
    "'",
    "`",
    "```",
    "*",
    "**",
    "_",
    "~~",
    "#",
    "### ",
    "|",
    "|---|",
    "\n",
    "\n\n",
    "0",
    "1",
    "2",
    "3",
    "4",
    "5",
    "6",
    "10",
    "4,5",
    ".5",
    "½",
    "４",
    "★",
    "☆",
    "/5",
    "/10",
    "%",
    " out of ",
    "A",
    "B",
    "tie",
    " or ",
    " to ",
    "\\boxed{",
    "\\frac{4}{5}",
    "$",
    "\\",
    "<think>",
    "</think>",
    "User: ",
    "Example:",
    "é",
    "<|im_end|>",
];

fn pieces(most: usize) -> impl Strategy<Value = String> {
    prop::collection::vec(prop::sample::select(&PIECES[..]), 0..most).prop_map(|pieces| pieces.concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn never_panics_and_never_leaves_the_scale(text in ".{0,40}", piece in pieces(24), cut in 0usize..60) {
        let cut = piece.char_indices().map(|(at, _)| at).nth(cut).unwrap_or(0);
        let both = [format!("{text}Score: {piece}"), format!("{piece}{text}")];
        for verdict in both.into_iter().chain([text, piece[cut..].to_owned()]) {
            for in_thought in [false, true] {
                if let Ok(reading) = read_score(&verdict, &ADDITIVE, in_thought) {
                    prop_assert!((0.0..=5.0).contains(&reading.value));
                    prop_assert!(verdict.get(reading.reasons).is_some());
                }
            }
            if let Ok(choice) = parse_choice(&verdict.replace("core", "better")) {
                prop_assert!([0.0, 0.5, 1.0].contains(&choice));
            }
            leaves_thought_open(&verdict);
        }
    }

    #[test]
    fn what_a_verdict_ends_with_is_read(text in "[a-z ,.\n]{0,60}", score in 0u32..=5) {
        prop_assert_eq!(parse_score(&format!("{text}.\n\nScore: {score}")), Ok(f64::from(score)));
    }

    #[test]
    fn sums_are_evaluated(terms in prop::collection::vec(0u32..=1, 2..=5), more in 1u32..4) {
        let sum: u32 = terms.iter().sum();
        let text = terms.iter().map(u32::to_string).collect::<Vec<_>>().join(" + ");
        prop_assert_eq!(parse_score(&format!("Score: {text}")), Ok(f64::from(sum)));
        prop_assert_eq!(parse_score(&format!("Score: {text} = {sum}")), Ok(f64::from(sum)));
        prop_assert_eq!(parse_score(&format!("Score: {text} = {}", sum + more)), Err(NoScore::Unequal));
    }
}

/// A text four times as long takes about four times as long, whatever it repeats.
#[test]
fn long_verdicts_take_linear_time() {
    let took = |piece: &str, bytes: usize| {
        let text = piece.repeat(bytes / piece.len());
        let start = std::time::Instant::now();
        let _ = (parse_score(&text), parse_choice(&text));
        start.elapsed()
    };
    let linear = |piece: &str| {
        let (short, long) = (took(piece, 25_000), took(piece, 100_000));
        long < short * 10 + std::time::Duration::from_millis(20)
    };
    for piece in [
        "Score: 1\nScore: 2\nScore: 3\n\n",
        "word ",
        "Score ",
        "Score:\n",
        "\n",
        "Score: 4\n",
        "score: 1+",
        "a score of 4, if ",
        "score (",
        "{\"score\": ",
        "<",
        "[",
        "<think>",
        "</think>",
        "\\frac{",
        "### ",
        "|Score|\n",
        "Better: A or ",
        "~~",
        "User: ",
    ] {
        // Another process may have taken the time.
        assert!((0..4).any(|_| linear(piece)), "{piece:?}");
    }
}
