//! A template's source, made ready for the compiler: tuples become calls, since Jinja in Rust takes them for lists, and
//! constants beside an operator are hidden, since the compiler would compute with them in its own way and without
//! bounds.

use minijinja::machinery::{self, Token, WhitespaceConfig};
use minijinja::{Error, ErrorKind};

use super::python::{ITSELF, TUPLE};

/// Most bytes of the template's source.
const SOURCE: usize = 1 << 20;
/// The parameters that take what is given beyond the others.
const VARARGS: &str = " varargs=none";
const KWARGS: &str = " kwargs=none";
/// Most tokens between one pair of braces, since the compiler recurses once for each operator of a chain.
const EXPRESSION: usize = 2000;

fn refused(what: String) -> Error {
    Error::new(ErrorKind::InvalidOperation, what)
}

/// A bracket that is open.
struct Open {
    at: usize,
    /// Whether it may hold a tuple or one expression: a parenthesis that calls nothing and names no targets.
    groups: bool,
    /// Whether it names targets, as in `for (a, b) in …`.
    targets: bool,
    commas: bool,
    hidden: bool,
    /// Whether it is a parenthesis.
    round: bool,
}

/// The macros that are open, for the names `varargs` and `kwargs` in them: what is given to a macro beyond its
/// parameters becomes parameters of these names, which its wrapper fills.
#[derive(Default)]
struct Macros {
    open: Vec<Macro>,
    inserted: Vec<(usize, usize, &'static str)>,
    /// How many brackets are open within a tag of a macro.
    depth: usize,
    signature: bool,
}

/// Where the parameters of a macro end, whether there are any, and whether its body names the rest.
#[derive(Default)]
struct Macro {
    end: usize,
    parameters: bool,
    varargs: bool,
    kwargs: bool,
}

impl Macros {
    /// Looks at the next token, the `length`-th of its tag.
    fn see(&mut self, token: &Token<'_>, (start, end): (usize, usize), length: usize, dotted: bool) {
        match token {
            Token::Ident("macro") if length == 2 => {
                (self.signature, self.depth) = (true, 0);
                self.open.push(Macro { end, ..Macro::default() });
            }
            Token::Ident("endmacro") if length == 2 => {
                let Some(last) = self.open.pop() else { return };
                let mut comma = last.parameters;
                for (named, name) in [(last.varargs, VARARGS), (last.kwargs, KWARGS)] {
                    if named {
                        self.inserted.extend([(last.end, 0, if comma { "," } else { "" }), (last.end, 0, name)]);
                        comma = true;
                    }
                }
            }
            Token::BlockEnd => self.signature = false,
            _ if self.signature => {
                match token {
                    Token::ParenOpen | Token::BracketOpen | Token::BraceOpen => self.depth += 1,
                    Token::ParenClose | Token::BracketClose | Token::BraceClose => {
                        self.depth = self.depth.saturating_sub(1);
                    }
                    _ => {}
                }
                if let Some(last) = self.open.last_mut() {
                    match (token, self.depth) {
                        (Token::ParenClose, 0) => last.end = start,
                        (Token::Ident(_), 1..) => last.parameters = true,
                        _ => {}
                    }
                }
            }
            Token::Ident("varargs") if !dotted => self.open.last_mut().into_iter().for_each(|one| one.varargs = true),
            Token::Ident("kwargs") if !dotted => self.open.last_mut().into_iter().for_each(|one| one.kwargs = true),
            _ => {}
        }
    }
}

/// The source as it is compiled. Refuses a source that would make the compiler recurse too deep.
pub(super) fn prepared(source: &str) -> Result<String, Error> {
    if source.len() > SOURCE {
        return Err(refused(format!("it has {} bytes; at most {SOURCE} are read", source.len())));
    }
    // What is put in at a place, after so many bytes there were left out.
    let mut inserted: Vec<(usize, usize, &str)> = Vec::new();
    let mut macros = Macros::default();
    let mut open: Vec<Open> = Vec::new();
    let (mut length, mut operand, mut hides, mut opened) = (0, false, false, false);
    let (mut words, mut block) = (["", ""], "");
    let (mut parameters, mut parameter) = (Vec::new(), false);
    // Where a tuple without brackets may begin, whether it has commas, and whether the last token may end a constant.
    let (mut bare, mut commas, mut constant, mut signed) = (None, false, false, None);
    // What a minus stands before: where it begins, how many brackets are open there, whether more than a name follows.
    let (mut negated, mut minus, mut dotted, mut last): (Vec<(usize, usize, bool)>, _, _, _) =
        (vec![], false, false, 0);
    for token in machinery::tokenize(source, false, Default::default(), WhitespaceConfig::default()) {
        // The compiler refuses what the lexer refuses, and says where it stands.
        let Ok((token, span)) = token else { break };
        let (start, end) = (span.start_offset as usize, span.end_offset as usize);
        if matches!(token, Token::VariableStart | Token::BlockStart) {
            (length, operand, hides, constant, commas, signed) = (0, false, false, false, false, None);
            open.clear();
            bare = matches!(token, Token::VariableStart).then_some(end);
            negated.clear();
            (block, parameter) = ("", false);
            parameters.clear();
        }
        length += 1;
        if length > EXPRESSION {
            return Err(refused(format!("line {}: an expression has more than {EXPRESSION} parts", span.start_line)));
        }
        let hide = std::mem::take(&mut hides);
        let just_opened = std::mem::take(&mut opened);
        let word = match &token {
            Token::Ident(name) => *name,
            _ => "",
        };
        // What a default of a macro names, Jinja looks up among the arguments before it, the machine around the macro.
        if block == "macro" && !word.is_empty() && length > 3 {
            if parameter && open.len() == 1 {
                parameters.push(word);
            } else if parameters.contains(&word) {
                return Err(refused(format!("line {}: a macro's default names another argument", span.start_line)));
            }
        }
        macros.see(&token, (start, end), length, dotted);
        parameter = matches!(token, Token::Comma | Token::ParenOpen);
        // The machine negates a name before it looks up what follows, so that is put into parentheses.
        while let Some((at, depth, chained)) = negated.last_mut().filter(|(_, depth, _)| open.len() <= *depth) {
            let follows = matches!(token, Token::Dot | Token::BracketOpen | Token::ParenOpen) || dotted;
            if open.len() == *depth && follows {
                *chained = true;
                break;
            }
            if *chained {
                inserted.extend([(*at, 0, "("), (last, 0, ")")]);
            }
            negated.pop();
        }
        if std::mem::take(&mut minus) && matches!(token, Token::Ident(_)) {
            negated.push((start, open.len(), false));
        }
        // The machine knows no plus before a value; a minus before a minus is as much.
        if matches!(token, Token::Plus) && !operand {
            inserted.push((start, 1, "- -"));
        }
        minus = matches!(token, Token::Minus | Token::Plus) && !operand;
        dotted = matches!(token, Token::Dot);
        last = end;
        match token {
            Token::ParenOpen | Token::BracketOpen | Token::BraceOpen => {
                let round = matches!(token, Token::ParenOpen);
                let targets = open.last().map_or(matches!(words[1], "for" | "set" | "call"), |outer| outer.targets);
                let groups = round && !operand && !targets;
                open.push(Open { at: start, groups, targets, commas: false, hidden: hide && !operand, round });
                opened = true;
            }
            Token::Comma => open.last_mut().map_or(&mut commas, |inner| &mut inner.commas).clone_from(&true),
            Token::Assign if open.is_empty() && bare.is_none() && block == "set" => (bare, commas) = (Some(end), false),
            Token::VariableEnd | Token::BlockEnd if commas => {
                if let Some(at) = bare {
                    inserted.extend([(at, 0, " "), (at, 0, TUPLE), (at, 0, "("), (start, 0, ")")]);
                }
            }
            Token::ParenClose | Token::BracketClose | Token::BraceClose => {
                if let Some(inner) = open.pop() {
                    if inner.groups && (inner.commas || just_opened) {
                        inserted.push((inner.at, 0, TUPLE));
                    } else if inner.hidden && inner.round {
                        inserted.push((inner.at, 0, ITSELF));
                    } else if inner.hidden {
                        inserted.extend([(inner.at, 0, ITSELF), (inner.at, 0, "("), (end, 0, ")")]);
                    }
                }
            }
            Token::Int(_) | Token::Int128(_) | Token::Float(_) | Token::Str(_) | Token::String(_) if hide => {
                let start = signed.unwrap_or(start);
                inserted.extend([(start, 0, ITSELF), (start, 0, "("), (end, 0, ")")]);
            }
            // After a value `*` multiplies; in `f(*list)` no value stands before it.
            Token::Mul | Token::Pow | Token::Div | Token::FloorDiv | Token::Mod | Token::Tilde => hides = constant,
            Token::Lt | Token::Lte | Token::Gt | Token::Gte => hides = constant,
            Token::Ident("and" | "or" | "in") => hides = constant,
            Token::Minus | Token::Plus if hide => hides = true,
            _ => {}
        }
        operand = match token {
            Token::Ident(_) => {
                // The name of a test is followed by its arguments.
                let test = words[1] == "is" || words == ["is", "not"];
                test && word != "not"
                    || !matches!(
                        word,
                        "in" | "not" | "and" | "or" | "if" | "else" | "is" | "elif" | "for" | "set" | "call" | "with"
                    )
            }
            Token::Int(_) | Token::Int128(_) | Token::Float(_) | Token::Str(_) | Token::String(_) => true,
            Token::ParenClose | Token::BracketClose | Token::BraceClose => true,
            _ => false,
        };
        signed = (hides && hide).then_some(start);
        constant =
            operand && (word.is_empty() || matches!(word, "true" | "false" | "none" | "True" | "False" | "None"));
        if length == 2 {
            block = word;
        }
        words = [words[1], word];
    }
    inserted.extend(macros.inserted);
    inserted.sort_by_key(|(at, left_out, _)| (*at, *left_out));
    let (mut out, mut copied) = (String::with_capacity(source.len()), 0);
    for (at, left_out, text) in inserted {
        out.push_str(&source[copied..at]);
        out.push_str(text);
        copied = at + left_out;
    }
    out.push_str(&source[copied..]);
    Ok(out)
}
