//! Flags made from the library's settings: names, help, ranges and defaults come from their rows.

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::error::ErrorKind;
use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, Args, Command, FromArgMatches};
use selfreward::settings::{self, Setting, Settings, Table, Takes, Value};

/// The settings that a command takes as flags, with their values where they are not given.
pub(crate) trait Preset {
    /// The struct of the settings.
    type Of: Settings + Clone;

    /// Heading of the flags in help.
    const HEADING: Option<&'static str> = None;

    /// What stands before each key in its flag.
    const PREFIX: &'static str = "";

    /// Other names of flags, by key.
    const ALIASES: &'static [(&'static str, &'static str)] = &[];

    /// Settings whose default follows from others, so that help shows none.
    const DERIVED: &'static [&'static str] = &[];

    /// The settings where no flag is given.
    fn defaults() -> Self::Of;

    /// Whether the command has a flag for a setting.
    fn takes(_key: &str) -> bool {
        true
    }

    /// Sets what follows from the flags that were given.
    fn complete(_settings: &mut Self::Of, _given: &Table) {}
}

/// The settings of a preset, as the flags say.
pub(crate) struct Flags<P: Preset> {
    settings: P::Of,
    given: Table,
}

impl<P: Preset> Flags<P> {
    /// The settings that were given as flags.
    pub(crate) fn given(&self) -> &Table {
        &self.given
    }
}

impl<P: Preset> std::ops::Deref for Flags<P> {
    type Target = P::Of;

    fn deref(&self) -> &P::Of {
        &self.settings
    }
}

fn rows<P: Preset>() -> impl Iterator<Item = &'static Setting> {
    P::Of::settings().into_iter().filter(|s| P::takes(s.key))
}

/// The name of a setting's flag.
fn name<P: Preset>(setting: &Setting) -> String {
    format!("{}{}", P::PREFIX, setting.key.replace('_', "-"))
}

/// The flag of a setting.
fn flag<P: Preset>(setting: &'static Setting, default: Option<&Value>) -> Arg {
    let aliases = P::ALIASES.iter().filter(|(key, _)| *key == setting.key).map(|(_, alias)| *alias);
    let arg = Arg::new(name::<P>(setting)).long(name::<P>(setting)).aliases(aliases).help(setting.help());
    if let Takes::Switch = setting.takes {
        return arg.action(ArgAction::SetTrue);
    }
    let arg = match default {
        Some(Value::String(text)) => arg.default_value(text.clone()),
        Some(Value::Array(list)) => arg.default_value(list.iter().map(short).collect::<Vec<_>>().join(",")),
        Some(value) => arg.default_value(short(value)),
        None => arg,
    };
    let arg = arg.value_name(setting.value).allow_negative_numbers(true);
    match setting.takes {
        Takes::OneOf(words) => arg.value_parser(PossibleValuesParser::new(words).map(Value::String)),
        Takes::Read { listed, .. } => arg
            .long_help(format!("{}. There are:{}", setting.help(), listed()))
            .value_parser(|text: &str| setting.parse(text)),
        _ => arg.value_parser(|text: &str| setting.parse(text)),
    }
}

/// A number without digits that add nothing: `1` for 1.0.
fn short(value: &Value) -> String {
    let text = settings::text(value);
    text.strip_suffix(".0").map(str::to_owned).unwrap_or(text)
}

impl<P: Preset> Args for Flags<P> {
    fn augment_args(command: Command) -> Command {
        let defaults = settings::table(&P::defaults()).unwrap_or_default();
        rows::<P>().fold(command, |command, setting| {
            let default = defaults.get(setting.key).filter(|_| !P::DERIVED.contains(&setting.key));
            command.arg(flag::<P>(setting, default).help_heading(P::HEADING))
        })
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl<P: Preset> FromArgMatches for Flags<P> {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let mut given = Table::new();
        for setting in rows::<P>() {
            let flag = name::<P>(setting);
            if matches.value_source(&flag) != Some(ValueSource::CommandLine) {
                continue;
            }
            let value = match setting.takes {
                Takes::Switch => Some(Value::Boolean(matches.get_flag(&flag))),
                _ => matches.get_one::<Value>(&flag).cloned(),
            };
            given.extend(value.map(|value| (setting.key.to_owned(), value)));
        }
        let wrong = |e: selfreward::Error| clap::Error::raw(ErrorKind::InvalidValue, format!("{e}\n"));
        let mut settings = settings::with(&P::defaults(), &given).map_err(wrong)?;
        P::complete(&mut settings, &given);
        Ok(Self { settings, given })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}
