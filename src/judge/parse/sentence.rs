//! What the sentence around a label says of the score that it names.

use super::token::Token;

/// Words before a label that do not change what it names.
pub(super) const NEUTRAL: &str = "\
    final total overall my the a an its this that our your so thus hence therefore then and i i'd give gives given \
    assign award it resulting combined cumulative aggregate aggregated additive sum summed awarded assigned judge \
    judge's verdict evaluation rating quality general answer response conclusion result points point is be here \
    here's numeric numerical integer single in summary as with step text mathrm new revised corrected updated \
    adjusted would which one of assessment judgment judgement judging grading reviewer reviewer's rubric \
    composite net performance calculated computed actual";
/// Words before a label that name another score than the one that is given.
const OTHERS: &str = "\
    perfect full maximum max highest lowest minimum min possible top best passing average mean median ideal \
    previous prior other another example sample higher lower better first initial";
/// Words that make a sentence one about what might be.
pub(super) const SUPPOSED: &str = "\
    if would could might unless were example examples e.g instance sample supposing suppose hypothetical \
    hypothetically otherwise";
pub(super) const EXAMPLE: &str = "example examples e.g instance sample hypothetical";
/// Words of a clause that take its score back.
const DENIED: &str = "\
    not no never cannot than least most up between needs requires need require without should may typically usually";
/// Words by which another one than the judge names a score.
pub(super) const CLAIMS: &str = "\
    itself says said claims claimed claiming contains states stating quotes mentions asks asked asking instructs \
    demands pretends tells saying reads";
const SO: &str = "so thus therefore hence accordingly";
/// How far a sentence is looked back on.
pub(super) const BACK: usize = 60;

/// The first token of the sentence in which the label stands.
pub(super) fn sentence(t: &[Token], i: usize, start: usize) -> usize {
    let back = start.saturating_sub(BACK);
    t[back..start]
        .iter()
        .rposition(|token| token.any(".!?;{"))
        .map_or(if back == 0 { 0 } else { start.min(i) }, |at| back + at + 1)
}

/// Whether the sentence before the label supposes something, and nothing is concluded from it.
pub(super) fn supposed(t: &[Token], i: usize) -> bool {
    let from = sentence(t, i, i);
    let before = &t[from..i];
    let concluded = before.iter().rposition(|token| token.one_of(SO)).map_or(0, |at| at + 1);
    // "I would give" supposes nothing.
    let own = |k: usize| k > 0 && before[k].one_of("would") && before[k - 1].one_of("i we");
    before[concluded..].iter().any(|token| token.one_of(EXAMPLE))
        || (concluded..before.len()).any(|k| before[k].one_of(SUPPOSED) && !own(k))
}

/// Whether the sentence before the label says that somebody else names a score.
pub(super) fn claimed(t: &[Token], i: usize) -> bool {
    let before = &t[sentence(t, i, i)..i];
    let concluded = before.iter().rposition(|token| token.one_of(SO)).map_or(0, |at| at + 1);
    before[concluded..].iter().any(|token| token.one_of(CLAIMS))
}

/// Whether the clause before the label takes its score back.
pub(super) fn denied(t: &[Token], i: usize) -> bool {
    let from = t[..i]
        .iter()
        .rev()
        .take(BACK)
        .position(|token| token.any(".!?;,:") || token.one_of(SO))
        .map_or(i.saturating_sub(BACK), |back| i - back);
    let clause = &t[from..i];
    let wanted = clause.windows(2).any(|pair| {
        let verbs = "get earn achieve reach receive deserve merit obtain have warrant";
        pair[0].one_of("to") && pair[1].one_of(verbs)
    });
    wanted || clause.iter().any(|token| token.one_of(DENIED) || token.word().is_some_and(|w| w.ends_with("n't")))
}

/// Whether the label within a sentence means the score that is given: not a perfect one, nor that of one point.
pub(super) fn named(t: &[Token], i: usize, start: usize, free: bool) -> bool {
    let mut phrase = t[..i].iter().rev().take(4).take_while(|token| !token.any(".!?;:,→–"));
    let other = phrase.any(|token| token.one_of(OTHERS));
    let before = start.checked_sub(1).map(|at| &t[at]);
    // A word in capitals is a mark, such as those of the small world.
    let mark = |word: &str| word.chars().all(char::is_uppercase);
    let capital = |token: &Token| token.word().is_some_and(|w| w.starts_with(char::is_uppercase) && !mark(w));
    let known = start < i && t[start..i].iter().any(|token| token.one_of(NEUTRAL));
    !other
        && (free
            || known
            || before.is_none_or(|before| {
                let capitals = t[i].word().is_some_and(|word| word.starts_with(char::is_uppercase));
                capitals && !capital(before)
            }))
}
