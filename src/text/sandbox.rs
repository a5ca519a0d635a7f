//! Runs templates that come with a model or from a user. They read no file, and they end within bounds of steps, time
//! and memory.
//!
//! minijinja counts steps, but one step may double a string, print a list that holds itself, or compare two lists of a
//! million entries. So the compiled template is changed before it runs: every value that an instruction makes is handed
//! to a function that counts it ([`guarded`]), and operators become functions with Python's meaning. The compiler
//! computes constants without either, so the source is changed before ([`source`]).

use super::python::{self, operators};
use super::source;
use crate::clock::{self, Instant};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use minijinja::machinery::{self, Instruction, Instructions, Vm};
use minijinja::value::{Value, ValueKind};
use minijinja::{Environment, Error, ErrorKind, Output};

type Result<T> = std::result::Result<T, Error>;

/// Most steps of one rendering, on top of what the input allows for.
const FUEL: u64 = 10_000_000;
/// Steps that each byte of the input allows for. There are templates that look back from each message over all before
/// it, so that a long conversation takes many.
const STEPS: u64 = 256;
/// Longest time that one rendering may take, on top of what the input allows for; most take milliseconds.
const TIME: Duration = Duration::from_secs(5);
/// The time that each byte of the input allows for.
const EACH: Duration = Duration::from_micros(20);
/// Most bytes of one value with all that it holds, on top of what the input allows for.
const VALUE: usize = 4 << 20;
/// Most bytes of all values that a rendering makes, on top of what the input allows for.
const VALUES: usize = 64 << 20;
/// Most bytes that a rendering writes, on top of what the input allows for; who makes tokens of them takes a hundred
/// times as much memory.
const TEXT: usize = 1 << 20;
/// Bytes that each byte of the input may be written as.
const WRITTEN: usize = 16;
/// Most entries of one list.
const ENTRIES: usize = 1 << 20;
/// How deep lists may lie within lists.
const DEPTH: usize = 160;

// These are not identifiers, so no template can name or replace them.
const MADE: &str = "(made)";
const KEPT: &str = "(kept)";
const SLICE: &str = "(slice)";
const PASS: &str = "(pass)";
const PRIVATE: &str = "(private)";
const ESCAPE: &str = "(escape)";

fn refused(what: impl Into<String>) -> Error {
    Error::new(ErrorKind::InvalidOperation, what.into())
}

/// Renders `source` with the functions and values that `environment` offers.
pub(crate) fn render(mut environment: Environment<'_>, source: &str, values: Value) -> Result<String> {
    let source = source::prepared(source)?;
    let mut input = usize::MAX;
    size(&values, 0, &mut input)?;
    let input = usize::MAX - input;
    let budget = Arc::new(Budget::new(input));
    environment.set_fuel(Some(FUEL.saturating_add(STEPS.saturating_mul(input as u64))));
    guard(&mut environment, &budget);
    let template = environment.template_from_str(&source)?;
    let compiled = machinery::get_compiled_template(&template);
    let main = guarded(&compiled.instructions);
    let blocks: BTreeMap<&str, Instructions<'_>> = compiled.blocks.iter().map(|(k, i)| (*k, guarded(i))).collect();
    let mut text = String::new();
    let mut out = machinery::make_string_output(&mut text);
    Vm::new(&environment).eval(&main, values, &blocks, &mut out, minijinja::AutoEscape::None)?;
    drop(out);
    let most = TEXT.saturating_add(WRITTEN.saturating_mul(input));
    match text.len() {
        n if n > most => Err(refused(format!("it writes {n} bytes; at most {most} are taken"))),
        _ => Ok(text),
    }
}

/// What went wrong, worded as a part of a sentence.
pub(crate) fn explain(error: &Error) -> String {
    match (error.kind(), error.detail(), error.line()) {
        (ErrorKind::OutOfFuel, ..) => {
            format!("it did not end within {FUEL} steps and {STEPS} for each byte of what it is given")
        }
        (ErrorKind::InvalidOperation, Some(detail), Some(line)) => format!("{detail} (line {line})"),
        (ErrorKind::InvalidOperation, Some(detail), None) => detail.to_string(),
        (kind, detail, line) => {
            let detail = detail.map(|detail| format!(": {detail}")).unwrap_or_default();
            let line = line.map(|line| format!(" (line {line})")).unwrap_or_default();
            format!("{kind}{detail}{line}")
        }
    }
}

/// What a rendering may still make, and until when.
struct Budget {
    left: AtomicUsize,
    /// Most bytes of one value.
    value: usize,
    until: Instant,
    time: Duration,
}

impl Budget {
    /// The budget for an input of `input` bytes. A template that adds message after message to one text copies it as
    /// often as there are messages, so more input allows for more.
    fn new(input: usize) -> Self {
        let value = VALUE.saturating_add(input.saturating_mul(4));
        let all = VALUES.saturating_add(input.saturating_mul(512));
        let time = TIME + EACH.saturating_mul(u32::try_from(input).unwrap_or(u32::MAX));
        Self { left: AtomicUsize::new(all), value, until: clock::now() + time, time }
    }

    fn spend(&self, bytes: usize) -> Result<()> {
        if clock::now() > self.until {
            return Err(refused(format!("it did not end within {} seconds", self.time.as_secs())));
        }
        let less = |left: usize| left.checked_sub(bytes);
        match self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less) {
            Ok(_) => Ok(()),
            Err(_) => Err(refused("it makes too much text or too long lists")),
        }
    }

    /// Whether so many bytes may be made at once. They are counted when they are there.
    fn room(&self, bytes: usize) -> Result<()> {
        self.spend(0)?;
        match bytes <= self.left.load(Ordering::Relaxed) {
            true => Ok(()),
            false => Err(refused("it makes too much text or too long lists")),
        }
    }

    /// Counts a value that an instruction made. A list that computes its entries when they are asked for is computed
    /// here, so that what is built from it has a known size.
    fn made(&self, value: Value) -> Result<Value> {
        let value = match value.kind() {
            ValueKind::Iterable if !python::is_row(&value) => listed(&value)?,
            ValueKind::Iterable => value,
            ValueKind::Seq | ValueKind::Map | ValueKind::String | ValueKind::Bytes | ValueKind::Plain => value,
            _ => return self.spend(0).map(|()| value),
        };
        let mut left = self.value;
        size(&value, 0, &mut left)?;
        let own = match value.kind() {
            ValueKind::String | ValueKind::Bytes => self.value - left,
            _ => value.len().unwrap_or(0).saturating_mul(size_of::<Value>()),
        };
        self.spend(own)?;
        Ok(value)
    }
}

fn listed(value: &Value) -> Result<Value> {
    let long = || refused(format!("it makes a list of more than {ENTRIES} entries"));
    if value.len().is_some_and(|n| n > ENTRIES) {
        return Err(long());
    }
    let list: Vec<Value> = value.try_iter()?.take(ENTRIES + 1).collect();
    if list.len() > ENTRIES { Err(long()) } else { Ok(Value::from(list)) }
}

/// Takes the bytes of a value, with all that it holds, off `left`.
fn size(value: &Value, depth: usize, left: &mut usize) -> Result<()> {
    if depth > DEPTH {
        return Err(refused(format!("it nests lists more than {DEPTH} deep")));
    }
    let own = size_of::<Value>() + value.as_str().map_or_else(|| value.as_bytes().map_or(0, <[u8]>::len), str::len);
    *left = left.checked_sub(own).ok_or_else(|| refused("it makes a value that is too large"))?;
    match value.kind() {
        ValueKind::Seq | ValueKind::Iterable => value.try_iter()?.try_for_each(|one| size(&one, depth + 1, left)),
        ValueKind::Map => value.try_iter()?.try_for_each(|key| {
            size(&key, depth + 1, left)?;
            size(&value.get_item(&key)?, depth + 1, left)
        }),
        _ => Ok(()),
    }
}

/// Refuses a namespace as a value: one that holds itself would be printed for ever.
fn without_namespace(value: &Value) -> Result<()> {
    if value.as_object().is_some_and(|object| object.type_name().ends_with("::Namespace")) {
        return Err(refused("a namespace cannot be put into a namespace"));
    }
    match value.kind() {
        ValueKind::Seq | ValueKind::Iterable => value.try_iter()?.try_for_each(|one| without_namespace(&one)),
        ValueKind::Map => value.try_iter()?.try_for_each(|key| without_namespace(&value.get_item(&key)?)),
        _ => Ok(()),
    }
}

/// Sets the bounds, and adds the functions that the changed instructions call.
fn guard(environment: &mut Environment<'_>, budget: &Arc<Budget>) {
    let b = budget.clone();
    let room: python::SharedRoom = Arc::new(move |bytes| b.room(bytes));
    python::install(environment, &room);
    let b = budget.clone();
    environment.add_function(MADE, move |value: Value| b.made(value));
    let b = budget.clone();
    environment.add_function(KEPT, move |value: Value| {
        // The value was counted when it was made, so walking through it is bounded.
        b.spend(0)?;
        without_namespace(&value)?;
        Ok::<_, Error>(value)
    });
    environment.add_function(SLICE, slice);
    let b = budget.clone();
    environment.add_function(PASS, move || b.spend(0));
    let b = budget.clone();
    environment.set_formatter(move |out, _, value| format(&b, out, value));
    // It prints all that the template sees.
    environment.remove_global("debug");
    environment.add_function(PRIVATE, |name: String| -> Result<Value> {
        Err(refused(format!("{name} begins with an underscore, so a namespace cannot hold it")))
    });
    environment.add_function(ESCAPE, |_: Value| -> Result<Value> { Err(refused("autoescape is not supported")) });
}

/// Prints a value as Python does.
fn format(budget: &Budget, out: &mut Output<'_>, value: &Value) -> Result<()> {
    let shown = value.as_str().is_none().then(|| python::shown(value));
    let text = shown.as_deref().or(value.as_str()).unwrap_or_default();
    budget.spend(text.len())?;
    out.write_str(text).map_err(Error::from)
}

/// `value[start:stop:step]` with Python's meaning.
fn slice(value: &Value, start: &Value, stop: &Value, step: &Value) -> Result<Value> {
    let number = |value: &Value| match value.is_none() {
        true => Ok(None),
        false => python::place(value).map(Some),
    };
    let (start, stop, step) = (number(start)?, number(stop)?, number(step)?.unwrap_or(1));
    if step == 0 {
        return Err(refused("a slice's step cannot be 0"));
    }
    let bounds = |n: usize| {
        let n = n as i128;
        let (low, high) = if step > 0 { (0, n) } else { (-1, n - 1) };
        let at = |place: i128| (if place < 0 { place + n } else { place }).clamp(low, high);
        (start.map_or(if step > 0 { low } else { high }, at), stop.map_or(if step > 0 { high } else { low }, at))
    };
    if let Some(part) = python::part_of_range(value, bounds(value.len().unwrap_or(0)), step) {
        return Ok(part);
    }
    let places = |n: usize| {
        let (first, end) = bounds(n);
        let mut next = first;
        std::iter::from_fn(move || {
            let here = next;
            next += step;
            (if step > 0 { here < end } else { here > end }).then_some(here as usize)
        })
    };
    if let Some(text) = value.as_str() {
        let letters: Vec<char> = text.chars().collect();
        return Ok(Value::from(places(letters.len()).map(|i| letters[i]).collect::<String>()));
    }
    match value.kind() {
        ValueKind::Seq => {
            let items: Vec<Value> = listed(value)?.try_iter()?.collect();
            Ok(python::alike(value, places(items.len()).map(|i| items[i].clone()).collect()))
        }
        _ => Err(refused(format!("a value of type {} cannot be sliced", python::type_name(value)))),
    }
}

/// The given instructions, changed so that whatever they make is counted.
fn guarded<'s>(given: &Instructions<'s>) -> Instructions<'s> {
    use Instruction as I;
    let made = || I::CallFunction(MADE, Some(1));
    let special = |i: u32| match i.checked_sub(1).and_then(|before| given.get(before)) {
        Some(I::LoadConst(key)) => key.as_str().is_some_and(python::special) || key.kind() == ValueKind::Bool,
        _ => false,
    };
    let (mut all, mut starts) = (Vec::new(), Vec::new());
    for i in 0..given.len() as u32 {
        let Some(instruction) = given.get(i) else { break };
        starts.push(all.len() as u32);
        let one = instruction.clone();
        let replacement = match instruction {
            // Only `Emit` is counted, so raw text is emitted by it as well.
            I::EmitRaw(text) => vec![I::LoadConst(Value::from(*text)), I::Emit],
            I::Slice => vec![I::CallFunction(SLICE, Some(4)), made()],
            I::PushAutoEscape => vec![I::CallFunction(ESCAPE, Some(1)), one],
            I::SetAttr(name) if name.starts_with('_') => {
                vec![I::LoadConst(Value::from(*name)), I::CallFunction(PRIVATE, Some(1))]
            }
            // The namespace lies on the stack above the value that is put into it.
            I::SetAttr(_) => vec![I::Swap, I::CallFunction(KEPT, Some(1)), I::Swap, one],
            I::Iterate(_) => vec![I::CallFunction(PASS, Some(0)), I::DiscardTop, one],
            I::GetAttr(name) if python::special(name) => {
                vec![I::LoadConst(Value::from(*name)), I::CallFunction(operators::ATTRIBUTE, Some(2)), made()]
            }
            I::GetItem if special(i) => vec![I::CallFunction(operators::ITEM, Some(2)), made()],
            I::BuildMacro(..) => vec![one, I::CallFunction(python::MACRO, Some(1))],
            I::PushLoop(_) | I::UnpackList(_) => vec![I::CallFunction(operators::ITERATED, Some(1)), one],
            I::BuildMap(_)
            | I::BuildKwargs(_)
            | I::MergeKwargs(_)
            | I::BuildList(_)
            | I::ApplyFilter(..)
            | I::PerformTest(..)
            | I::EndCapture
            | I::CallFunction(..)
            | I::CallMethod(..)
            | I::CallObject(_) => vec![one, made()],
            _ => match operators::function(instruction) {
                Some((name, count)) => vec![I::CallFunction(name, Some(count)), made()],
                None => vec![one],
            },
        };
        all.extend(replacement.into_iter().map(|instruction| (instruction, given.get_line(i))));
    }
    starts.push(all.len() as u32);
    let moved = |to: &u32| starts.get(*to as usize).copied().unwrap_or(u32::MAX);
    let mut out = Instructions::new(given.name(), given.source());
    for (mut instruction, line) in all {
        match &mut instruction {
            I::Iterate(to)
            | I::Jump(to)
            | I::JumpIfFalse(to)
            | I::JumpIfFalseOrPop(to)
            | I::JumpIfTrueOrPop(to)
            | I::BuildMacro(_, to, _) => *to = moved(to),
            _ => {}
        }
        match line.and_then(|line| u16::try_from(line).ok()) {
            Some(line) => out.add_with_line(instruction, line),
            None => out.add(instruction),
        };
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(source: &str) -> std::result::Result<String, String> {
        let environment = Environment::new();
        let values = minijinja::context! { list => (0..5).collect::<Vec<_>>(), text => "äbcde" };
        render(environment, source, values).map_err(|error| explain(&error))
    }

    #[test]
    fn what_templates_do_stays_as_it_was() {
        for (source, want) in [
            ("{% for i in range(3) %}{{ i }}{% if loop.last %}!{% endif %}{% else %}none{% endfor %}", "012!"),
            ("{% for i in [] %}{{ i }}{% else %}none{% endfor %}", "none"),
            ("{% macro f(x, y=2) %}<{{ x * y }}>{% endmacro %}{{ f(3) }}{{ f(1, y=5) }}{{ f(*[2, 7]) }}", "<6><5><14>"),
            (
                "{% set ns = namespace(x='a') %}{% for i in list %}{% set ns.x = ns.x ~ i %}{% endfor %}{{ ns.x }}",
                "a01234",
            ),
            ("{% for x in [[1, [2]], [3]] recursive %}{{ loop(x) if x is iterable else x }}{% endfor %}", "123"),
            ("{% set x %}a{{ 1 }}b{% endset %}{{ x + x }}", "a1ba1b"),
            ("{% filter upper %}abc{{ text }}{% endfilter %}", "ABCÄBCDE"),
            (
                "{{ 'ab' * 3 }} {{ 2 * 3 * 4 }} {{ 7 // 2 * 2 }} {{ 2 ** 3 }} {{ ([1, 2] * 2) | join('-') }}",
                "ababab 24 6 8 1-2-1-2",
            ),
            (
                "{{ list[1:3] }} {{ list[::-1] }} {{ list[:-2] }} {{ list[-2:] }} {{ list[10:] }} {{ list[3:0:-2] }}",
                "[1, 2] [4, 3, 2, 1, 0] [0, 1, 2] [3, 4] [] [3, 1]",
            ),
            ("{{ text[1:] }} {{ text[::-1] }} {{ text[-9:2] }} {{ text[5:1:-2] }}", "bcde edcbä äb ec"),
            (
                "{{ list | map('string') | join(', ') }} {{ 'a,b'.split(',') | length }} {{ 'x-y'.replace('-', '+') }}",
                "0, 1, 2, 3, 4 2 x+y",
            ),
            ("{{ '%s-%03d' | format('a', 7) }} {{ 'a\nb' | indent(2) }} {{ {'a': list}['a'][2] }}", "a-007 a\n  b 2"),
            (
                "{{ (list | select('odd') | list) + [9] }}{% if 3 in list and 'b' in text %}yes{% endif %}",
                "[1, 3, 9]yes",
            ),
            ("{% with a = 1 %}{{ a }}{% endwith %}{{ none }}{{ true }}{{ undefined_name }}", "1NoneTrue"),
            ("{% block b %}{{ 1 + 1 }}{% endblock %}", "2"),
        ] {
            assert_eq!(run(source).as_deref(), Ok(want), "{source}");
        }
    }

    #[test]
    fn no_template_takes_memory_or_time_without_bound() {
        let twice = "{% set x = x + x %}".repeat(60);
        let nested = "{% set x = [x, x] %}".repeat(60);
        let long = format!("{{{{ {}1 }}}}", "1 + ".repeat(200_000));
        let products = format!("{{{{ {}'b' }}}}", "'a' * 99999999 ~ ".repeat(50));
        let literal =
            format!("{{% set x %}}{{% for i in range(99999) %}}{}{{% endfor %}}{{% endset %}}", "a".repeat(9999));
        for source in [
            &format!("{{% set x = 'aaaaaaaa' %}}{twice}{{{{ x | length }}}}"),
            &format!("{{% set x = [1] %}}{nested}{{{{ x }}}}"),
            &format!("{{% set x = [1] %}}{twice}{{{{ x | length }}}}"),
            &long,
            &products,
            &literal,
            "{% set ns = namespace(x='ab') %}{% for i in range(99) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}",
            "{% set ns = namespace(x=[]) %}{% for i in range(9999) %}{% set ns.x = [ns.x] %}{% endfor %}",
            "{% set ns = namespace(x=[1]) %}{% for i in range(9999) %}{% set ns.x = ns.x[0:] + ns.x %}{% endfor %}",
            "{% set ns = namespace() %}{% set ns.x = ns %}{{ ns }}",
            "{% set ns = namespace() %}{% set ns.x = [{'a': ns}] %}{{ ns }}",
            "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
            "{% macro f(x) %}{{ f(x ~ x) }}{% endmacro %}{{ f('aaaaaaaa') }}",
            "{{ 'a' * 99999999 }}",
            "{{ ('a') * 9999 * 9999 }}",
            "{{ ([1] * 999999999) | list | length }}",
            "{{ 1 in [0] * 999999999 }}",
            "{{ [1] * 999999999 == [1] * 999999999 }}",
            "{{ ('a' * 99999) | replace('', 'b' * 99999) }}",
            "{{ ('a' * 99999).replace('', 'b' * 99999) }}",
            "{{ range(99999) | join('a' * 99999) }}",
            "{{ ('a' * 99999).join(range(99999)) }}",
            "{{ ('\n' * 99999) | indent(99999) }}",
            "{{ ('\n' * 99999) | indent(width=99999) }}",
            "{{ '%99999999999d' | format(1) }}",
            "{{ '%.*f' | format(999999999, 1.0) }}",
            "{{ '{:>999999999}'.format(1) }}",
            "{{ ('{0}' * 99999).format('a' * 99999) }}",
            "{{ [1] | batch(999999999, 0) }}",
            "{{ [1] | slice(999999999) }}",
            "{{ 'a'.zfill(10 ** 9) }}",
            "{{ 'a'.center(10 ** 9) }}",
            "{{ 'a'.ljust(10 ** 18, 'b') }}",
            "{{ 'a' | center(10 ** 9) }}",
            "{{ ('\t' * 99999).expandtabs(99999) }}",
            "{{ '%1000000000d' % 1 }}",
            "{{ '%*d' % (10 ** 9, 1) }}",
            "{{ '%.999999999f' % 1.0 }}",
            "{{ '{:>{}}'.format('a', 10 ** 9) }}",
            "{{ '{:.99999}'.format(1.0) }}",
            "{{ ('%9999s' * 99999) % ((1,) * 99999) }}",
            "{{ ('%(a)9999d' * 99999) % {'a': 1} }}",
            "{% set x = 'a' * 9999 %}{% for i in range(99) %}{% set x = x.replace('a', x) %}{{ x }}{% endfor %}",
            "{% set ns = namespace(x='a') %}{% for i in range(99) %}\
             {% set ns.x = ns.x.replace('a', 'aa' * 9) %}{% endfor %}",
            "{{ range(99999) | map('center', 99999) | list }}",
            "{{ ([range(999)] * 99) | map('map', 'center', 99999) | map('list') | list }}",
            "{{ ([[0] * 999] * 99 + [[0] * 999] * 99) | sum(start=[]) }}",
            "{{ range(9999) | batch(1) | map('batch', 99999, 0) | map('list') | list }}",
            "{{ 999999999 * [1] }}",
            "{{ 'a' * 99999 ~ 'a' * 99999999 }}",
            "{{ 2 ** 9999999999 }}",
            "{{ 'abc' | indent('a' * 9999999) }}",
            "{{ ('a\n' * 999999) | indent('a' * 9999) }}",
            "{{ ('a' * 999999) | list | join('a' * 9999) }}",
            "{{ '{[' ~ ':' * 999999 ~ '}' }}{{ ('{[' ~ ':' * 999999 ~ '}').format(1) }}",
            "{{ ((range(9999) | list) * 5) | select('in', (range(-49999, 0) | list) + ['']) | list }}",
            "{{ dict.fromkeys(range(99999), 'a' * 999999) }}",
            "{{ ('é' * 999999).rjust(99999999) }}",
            "{{ [1] | tojson(indent='a' * 9999) }}",
            "{{ [[1] * 999] * 999 | tojson(separators=('a' * 9999, ':')) }}",
            "{% for x in ['a' * 99] * 9999 %}{{ x | replace('a', '&' * 999) | e }}{% endfor %}",
            "{{ debug() }}",
            "{{ [1] | pprint }}",
            "{% for i in range(999) %}{{ 'a' * 9999 }}{% endfor %}",
            "{{ [1] | tojson(indent=99999999999) }}",
            "{% include '/etc/passwd' %}",
            "{% import '../x' as x %}",
            "{% extends '/etc/passwd' %}",
        ] {
            let start = clock::now();
            let error = run(source).unwrap_err();
            assert!(!error.is_empty() && start.elapsed() < 2 * TIME, "{} {error}", &source[..source.len().min(99)]);
        }
    }

    /// Some templates look at every message before each, as Gemma 4's does.
    #[test]
    fn long_inputs_allow_for_more_steps() {
        let source = "{% set ns = namespace(n=0) %}{% for a in list %}{% for b in range(loop.index0 - 1, -1, -1) %}\
                      {% set ns.n = ns.n + 1 %}{% endfor %}{% endfor %}{{ ns.n }}";
        let list: Vec<Value> = (0..1700).map(|i| minijinja::context! { content => format!("{i:300}") }).collect();
        let text = render(Environment::new(), source, minijinja::context! { list => list });
        assert_eq!(text.map_err(|error| explain(&error)).as_deref(), Ok("1444150"));
    }

    #[test]
    fn what_was_too_much_is_said() {
        for (source, word) in [
            ("{% for a in range(9999) %}\n{% for b in range(9999) %}{% endfor %}{% endfor %}", "10000000 steps"),
            ("\n{% set x = 'a' * 9999999 %}", "too large (line 2)"),
            ("{% set ns = namespace() %}{% set ns.x = ns %}", "namespace"),
            ("{{ [1] * 99999999 }}", "too long lists"),
            ("{{ 'a'.zfill(10 ** 9) }}", "too much text"),
            ("{{ '%1000000000d' % 1 }}", "up to 9999"),
            ("{{ 'a'.encode() }}", "encode is not supported"),
            ("{{ list.append(1) }}", "would change a list"),
        ] {
            let error = run(source).unwrap_err();
            assert!(error.contains(word), "{error}");
        }
    }
}
