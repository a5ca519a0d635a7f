//! Settings told once: `settings!` declares a struct together with the keys, defaults, ranges and texts of its
//! fields. The sections of a configuration, `configs/reference.toml`, the flags of the commands with their help, and
//! what a resume compares all come from these rows.

use crate::{Error, Result};
use serde::Serialize;
use serde::de::DeserializeOwned;
pub use toml::{Table, Value};

/// Which numbers a setting takes; none takes NaN or an infinity.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Range {
    /// Every finite number.
    Finite,
    /// x ≥ 0.
    AtLeast0,
    /// x > 0.
    Above0,
    /// 0 ≤ x ≤ 1.
    From0To1,
    /// 0 ≤ x < 1.
    From0Below1,
    /// 0 < x ≤ 1.
    Above0To1,
}

impl Range {
    fn holds(self, x: f64) -> bool {
        let within = match self {
            Range::Finite => true,
            Range::AtLeast0 => x >= 0.0,
            Range::Above0 => x > 0.0,
            Range::From0To1 => (0.0..=1.0).contains(&x),
            Range::From0Below1 => (0.0..1.0).contains(&x),
            Range::Above0To1 => x > 0.0 && x <= 1.0,
        };
        within && x.is_finite()
    }

    /// The end of the phrase "a number …" for this range.
    fn text(self) -> &'static str {
        match self {
            Range::Finite => "",
            Range::AtLeast0 => " of at least 0",
            Range::Above0 => " above 0",
            Range::From0To1 => " from 0 to 1",
            Range::From0Below1 => " from 0 to below 1",
            Range::Above0To1 => " above 0, at most 1",
        }
    }
}

/// The values that a setting takes.
#[derive(Clone, Copy)]
pub enum Takes {
    /// True or false; the flag stands alone.
    Switch,
    /// A whole number of at least this.
    Whole(i64),
    /// 0 or 1.
    ZeroOrOne,
    /// A number in a range.
    Number(Range),
    /// A list of this many numbers in a range; of any length if that is `None`.
    Numbers(Range, Option<usize>),
    /// One of these words.
    OneOf(&'static [&'static str]),
    /// A text.
    Text,
    /// A list of texts.
    Texts,
    /// A text that `read` understands; help ends with what `listed` says.
    Read {
        /// Says what is wrong with a text, if something is.
        read: fn(&str) -> Result<()>,
        /// Lists the words that it knows, one on each line.
        listed: fn() -> String,
    },
    /// Whatever the type of the field takes.
    Typed,
}

/// A row of a struct that `settings!` declares.
#[derive(Clone, Copy)]
pub struct Setting {
    /// The setting's key in a configuration; with dashes instead of underscores, its flag.
    pub key: &'static str,
    /// The word that stands for the value in help.
    pub value: &'static str,
    /// The doc comment of the field, as it is written.
    pub doc: &'static str,
    /// The values that the setting takes.
    pub takes: Takes,
}

impl Setting {
    /// What the setting is, in sentences without the last full stop.
    pub fn help(&self) -> String {
        plain(self.doc)
    }

    /// The first sentence of [`Setting::help`].
    pub fn brief(&self) -> String {
        brief(self.doc)
    }

    /// The value that the text of a flag means.
    ///
    /// # Errors
    /// The text is not such a value, or is out of its range; the error says what was expected.
    pub fn parse(&self, text: &str) -> std::result::Result<Value, String> {
        let number = |text: &str| text.trim().parse::<f64>().ok().map(Value::Float);
        let value = match self.takes {
            Takes::Switch => text.parse().ok().map(Value::Boolean),
            Takes::Whole(_) | Takes::ZeroOrOne => text.parse().ok().map(Value::Integer),
            Takes::Number(_) => number(text),
            Takes::Numbers(..) => text.split(',').map(number).collect::<Option<_>>().map(Value::Array),
            Takes::Texts => Some(Value::Array(text.split(',').map(|one| Value::String(one.to_owned())).collect())),
            Takes::OneOf(_) | Takes::Text | Takes::Read { .. } | Takes::Typed => Some(Value::String(text.to_owned())),
        };
        let value = value.ok_or_else(|| format!("expected {}", self.expected()))?;
        self.wrong(&value).map_or(Ok(value), Err)
    }

    /// Checks that the setting may have this value.
    ///
    /// # Errors
    /// The setting may not have the value; the error names the key, the value and what was expected.
    pub fn check(&self, value: &Value) -> Result<()> {
        match self.wrong(value) {
            Some(wrong) => Err(Error::Input(format!("{} is {}; {wrong}", self.key, text(value)))),
            None => Ok(()),
        }
    }

    /// The setting's line in a reference: its key with `value`, or in a comment if there is none, and its brief.
    pub fn line(&self, value: Option<&Value>) -> String {
        let example = match self.takes {
            Takes::OneOf([first, ..]) => format!("\"{first}\""),
            _ => String::new(),
        };
        let entry = match value {
            Some(value) => format!("{} = {}", self.key, text(value)),
            None => format!("# {} = {example}", self.key),
        };
        format!("{entry:25} # {}", self.brief())
    }

    fn wrong(&self, value: &Value) -> Option<String> {
        let number = |range: Range, value: &Value| match value {
            Value::Float(x) => range.holds(*x),
            Value::Integer(n) => range.holds(*n as f64),
            _ => false,
        };
        let fine = match (self.takes, value) {
            (Takes::Switch, Value::Boolean(_)) | (Takes::Text, Value::String(_)) | (Takes::Typed, _) => true,
            (Takes::Whole(least), Value::Integer(n)) => *n >= least,
            (Takes::ZeroOrOne, Value::Integer(n)) => (0..=1).contains(n),
            (Takes::Number(range), value) => number(range, value),
            (Takes::Numbers(range, count), Value::Array(list)) => {
                count.is_none_or(|count| count == list.len()) && list.iter().all(|x| number(range, x))
            }
            (Takes::Texts, Value::Array(list)) => list.iter().all(Value::is_str),
            (Takes::OneOf(words), Value::String(word)) => words.contains(&word.as_str()),
            (Takes::Read { read, .. }, Value::String(text)) => return read(text).err().map(|e| e.to_string()),
            _ => false,
        };
        (!fine).then(|| format!("expected {}", self.expected()))
    }

    fn expected(&self) -> String {
        match self.takes {
            Takes::Switch => "true or false".into(),
            Takes::Whole(0) => "a whole number".into(),
            Takes::Whole(least) => format!("a whole number of at least {least}"),
            Takes::ZeroOrOne => "0 or 1".into(),
            Takes::Number(range) => format!("a number{}", range.text()),
            Takes::Numbers(range, Some(count)) => format!("{count} numbers, each{}", range.text()),
            Takes::Numbers(range, None) => format!("a list of numbers, each{}", range.text()),
            Takes::OneOf([all @ .., last]) => format!("{} or {last}", all.join(", ")),
            Takes::Texts => "a list of texts".into(),
            Takes::OneOf([]) | Takes::Text | Takes::Read { .. } | Takes::Typed => "a text".into(),
        }
    }
}

/// A doc comment as one paragraph without the last full stop.
pub(crate) fn plain(doc: &str) -> String {
    let words = doc.split_whitespace().collect::<Vec<_>>().join(" ");
    words.strip_suffix('.').unwrap_or(&words).to_owned()
}

/// The first sentence of a doc comment.
pub(crate) fn brief(doc: &str) -> String {
    let all = plain(doc);
    all.split(". ").next().unwrap_or(&all).to_owned()
}

/// A value as it would be typed.
pub fn text(value: &Value) -> String {
    match value {
        Value::Float(x) => format!("{x:?}"),
        Value::Array(list) => format!("[{}]", list.iter().map(text).collect::<Vec<_>>().join(", ")),
        value => value.to_string(),
    }
}

/// A value whose f32 numbers have only as many digits as tell them from others, as they were typed.
fn shortened(value: Value) -> Value {
    match value {
        Value::Float(x) if f64::from(x as f32) == x => Value::Float(format!("{:?}", x as f32).parse().unwrap_or(x)),
        Value::Array(list) => Value::Array(list.into_iter().map(shortened).collect()),
        value => value,
    }
}

/// A struct whose fields are settings.
pub trait Settings: Serialize + DeserializeOwned + Default {
    /// The doc comment of the struct, as it is written.
    const ABOUT: &'static str;

    /// The rows of the struct, followed by those of its parts.
    fn settings() -> Vec<&'static Setting>;
}

/// The keys with their values; a key whose value is None is left out.
///
/// # Errors
/// A value that TOML cannot hold, such as a path that is no Unicode.
pub fn table<T: Settings>(of: &T) -> Result<Table> {
    let all = Table::try_from(of).map_err(|e| Error::Input(format!("settings: {e}")))?;
    let known = T::settings();
    let all = all.into_iter().filter(|(key, _)| known.iter().any(|s| s.key == key));
    Ok(all.map(|(key, value)| (key, shortened(value))).collect())
}

/// `defaults` with what `given` says in its place. Fields that are no settings take the defaults of their type.
///
/// # Errors
/// A key that is none of its settings; a value that a setting does not take.
pub fn with<T: Settings>(defaults: &T, given: &Table) -> Result<T> {
    let known = T::settings();
    for (key, value) in given {
        let unknown = || {
            let keys = known.iter().map(|s| s.key).collect::<Vec<_>>().join(", ");
            Error::Input(format!("'{key}' is no key here; there are {keys}"))
        };
        known.iter().find(|s| s.key == key).ok_or_else(unknown)?.check(value)?;
    }
    let mut all = table(defaults)?;
    all.extend(given.clone());
    let all = all.try_into().map_err(|e: toml::de::Error| Error::Input(e.message().to_owned()))?;
    check(&all)?;
    Ok(all)
}

/// Whether every setting has a value that it takes.
///
/// # Errors
/// The first setting whose value it does not take.
pub fn check<T: Settings>(of: &T) -> Result<()> {
    let table = table(of)?;
    T::settings().iter().try_for_each(|s| table.get(s.key).map_or(Ok(()), |value| s.check(value)))
}

/// A section of a configuration: settings that stand under a name.
pub trait Section: Settings {
    /// Name of the section in a configuration.
    const NAME: &'static str;

    /// Whether its settings go together; each by itself is in its range.
    ///
    /// # Errors
    /// Settings that do not go together; the error names them.
    fn agree(&self) -> Result<()> {
        Ok(())
    }

    /// Sets what follows from what was given where it is not given itself.
    fn complete(&mut self, _given: &Table) {}

    /// Whether every value is in its range and goes with the others.
    ///
    /// # Errors
    /// The first one that does not; the error names the section.
    fn check(&self) -> Result<()> {
        check(self).and_then(|()| self.agree()).map_err(named::<Self>)
    }
}

fn named<T: Section>(error: Error) -> Error {
    Error::Input(format!("[{}] {error}", T::NAME))
}

/// For `with`: sections of a configuration. A file names what differs from the defaults; all keys are written.
pub(crate) mod section {
    use super::{Section, Table, named, table, with};
    use serde::{Deserialize, Deserializer, Serialize, Serializer, de, ser};

    pub(crate) fn deserialize<'de, T: Section, D: Deserializer<'de>>(from: D) -> Result<T, D::Error> {
        let given = Table::deserialize(from)?;
        let mut section = with(&T::default(), &given).map_err(named::<T>).map_err(de::Error::custom)?;
        section.complete(&given);
        Ok(section)
    }

    pub(crate) fn serialize<T: Section, S: Serializer>(section: &T, to: S) -> Result<S::Ok, S::Error> {
        table(section).map_err(ser::Error::custom)?.serialize(to)
    }

    /// For `with`: a section that says by being there that something is wanted.
    pub(crate) mod wanted {
        use super::{Deserializer, Section, Serializer};

        pub(crate) fn deserialize<'de, T: Section, D: Deserializer<'de>>(from: D) -> Result<Option<T>, D::Error> {
            super::deserialize(from).map(Some)
        }

        pub(crate) fn serialize<T: Section, S: Serializer>(section: &Option<T>, to: S) -> Result<S::Ok, S::Error> {
            match section {
                Some(section) => super::serialize(section, to),
                None => to.serialize_none(),
            }
        }
    }
}

/// Declares a struct of settings: its fields with their doc comments and defaults, and behind each `=>` its key, what
/// stands for its value in help, and what it takes. `parts` are structs of settings whose keys stand among its own, but
/// those of `without`; fields that are no settings stand under `beside`.
macro_rules! settings {
    (
        $(#[doc = $about:literal])+
        $(#[derive($($derive:ident),*)])?
        pub struct $name:ident {
            $(
                $(#[doc = $doc:literal])+
                $(#[serde($($serde:tt)*)])?
                $field:ident: $type:ty = $default:expr => $key:literal, $value:literal, $takes:expr;
            )*
        }
        $(parts {
            $(
                $(#[doc = $part_doc:literal])+
                $part:ident: $part_type:ty = $part_default:expr, without $without:expr;
            )*
        })?
        $(beside {
            $(
                $(#[doc = $beside_doc:literal])+
                $beside:ident: $beside_type:ty = $beside_default:expr;
            )*
        })?
    ) => {
        $(#[doc = $about])+
        #[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
        $(#[derive($($derive),*)])?
        #[serde(default)]
        #[non_exhaustive]
        pub struct $name {
            $(
                $(#[doc = $doc])+
                #[serde(rename = $key)]
                $(#[serde($($serde)*)])?
                pub $field: $type,
            )*
            $($(
                $(#[doc = $part_doc])+
                #[serde(flatten)]
                pub $part: $part_type,
            )*)?
            $($(
                $(#[doc = $beside_doc])+
                #[serde(skip)]
                pub $beside: $beside_type,
            )*)?
        }

        impl Default for $name {
            fn default() -> Self {
                Self {
                    $($field: $default,)*
                    $($($part: $part_default,)*)?
                    $($($beside: $beside_default,)*)?
                }
            }
        }

        $crate::settings::setters! {
            impl $name {
                $($(#[doc = $doc])+ $field: $type;)*
                $($($(#[doc = $part_doc])+ $part: $part_type;)*)?
                $($($(#[doc = $beside_doc])+ $beside: $beside_type;)*)?
            }
        }

        impl $crate::settings::Settings for $name {
            const ABOUT: &'static str = concat!($($about, "\n"),+);

            fn settings() -> Vec<&'static $crate::settings::Setting> {
                const OWN: &[$crate::settings::Setting] = &[
                    $($crate::settings::Setting {
                        key: $key, value: $value, doc: concat!($($doc, "\n"),+), takes: $takes
                    },)*
                ];
                let all = OWN.iter();
                $($(
                    let without: &[&str] = &$without;
                    let part = <$part_type as $crate::settings::Settings>::settings();
                    let all = all.chain(part.into_iter().filter(|s| !without.contains(&s.key)));
                )*)?
                all.collect()
            }
        }
    };
}
pub(crate) use settings;

/// Writes for each field of a struct a method of its name that sets it, so that others can fill in a struct to which
/// fields will be added: `Sampling::default().temperature(0.7).top_p(0.9)`.
macro_rules! setters {
    (
        impl $name:ident $(<$life:lifetime>)? {
            $($(#[doc = $doc:literal])+ $field:ident: $type:ty;)*
        }
    ) => {
        #[allow(dead_code, reason = "settings of the crate's own may need only some of them")]
        impl $(<$life>)? $name $(<$life>)? {
            $(
                $(#[doc = $doc])+
                #[must_use]
                pub fn $field(mut self, $field: $type) -> Self {
                    self.$field = $field;
                    self
                }
            )*
        }
    };
}
pub(crate) use setters;

#[cfg(test)]
#[expect(unreachable_pub, reason = "settings! declares public structs")]
mod tests {
    use super::*;

    settings! {
        /// Of a room.
        pub struct Room {
            /// How warm it is. In degrees.
            warmth: f32 = 0.1 => "warmth", "T", Takes::Number(Range::AtLeast0);
            /// What it is
            /// for.
            purpose: String = "sleep".into() => "for", "P", Takes::OneOf(&["sleep", "work"]);
        }
    }

    settings! {
        /// Of a house.
        pub struct House {
            /// How many rooms it has.
            rooms: usize = 2 => "rooms", "N", Takes::Whole(1);
            /// Its height, if known.
            height: Option<f32> = None => "height", "M", Takes::Number(Range::Above0);
        }
        parts {
            /// Each of them.
            room: Room = Room { warmth: 20.0, ..Room::default() }, without ["for"];
        }
        beside {
            /// Who lives there.
            people: u8 = 3;
        }
    }

    fn given(text: &str) -> Result<House> {
        with(&House::default(), &text.parse().unwrap())
    }

    #[test]
    fn what_is_given_stands_in_the_place_of_defaults() {
        let house = given("rooms = 3\nwarmth = 18").unwrap();
        assert_eq!((house.rooms, house.room.warmth, house.people), (3, 18.0, 3));
        assert_eq!(table(&house).unwrap().to_string().replace('\n', ";"), "rooms = 3;warmth = 18.0;");
        for (text, error) in [
            ("doors = 1", "'doors' is no key here; there are rooms, height, warmth"),
            ("for = \"work\"", "'for' is no key here; there are rooms, height, warmth"),
            ("rooms = 0", "rooms is 0; expected a whole number of at least 1"),
            ("warmth = nan", "warmth is NaN; expected a number of at least 0"),
            ("warmth = \"hot\"", "warmth is \"hot\"; expected a number of at least 0"),
        ] {
            assert_eq!(given(text).unwrap_err().to_string(), error);
        }
        assert!(check(&House { rooms: 0, ..House::default() }).unwrap_err().to_string().starts_with("rooms is 0"));
        let room = Room { purpose: "party".into(), ..Room::default() };
        assert_eq!(check(&room).unwrap_err().to_string(), "for is \"party\"; expected sleep or work");
    }

    #[test]
    fn rows_give_help_and_lines() {
        let rows = Room::settings();
        assert_eq!((rows[0].help(), rows[0].brief()), ("How warm it is. In degrees".into(), "How warm it is".into()));
        assert_eq!(rows[1].help(), "What it is for");
        let values = table(&Room::default()).unwrap();
        assert_eq!(rows[0].line(values.get("warmth")), "warmth = 0.1              # How warm it is");
        assert_eq!(rows[1].line(None), "# for = \"sleep\"           # What it is for");
        assert_eq!(rows[0].parse("0.5"), Ok(Value::Float(0.5)));
        assert_eq!(rows[0].parse("-1").unwrap_err(), "expected a number of at least 0");
        assert_eq!(text(&shortened(Value::Float(f64::from(5.5e-6f32)))), "5.5e-6");
    }
}
