//! Python's `strftime` on a time of the local clock, in the language of programs.

const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];
const DAYS: [&str; 7] = ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];
/// Widest field; what asks for more stays as it is.
const WIDEST: usize = 999;

/// A time of day of the Gregorian calendar.
pub(crate) struct Date {
    year: i64,
    /// From 0.
    month: i64,
    day: i64,
    /// From 0.
    day_of_year: i64,
    /// From Sunday, which is 0.
    weekday: i64,
    hour: i64,
    minute: i64,
    second: i64,
    micros: u32,
    /// Seconds since 1970 in local time, less those by which local time is ahead.
    epoch: i64,
}

fn leap(year: i64) -> bool {
    year % 4 == 0 && (year % 100 != 0 || year % 400 == 0)
}

impl Date {
    /// The time `seconds` and `micros` after 1970, where local time is `ahead` seconds ahead.
    pub(crate) fn new(seconds: i64, micros: u32, ahead: i64) -> Self {
        let local = seconds + ahead;
        let (days, time) = (local.div_euclid(86400), local.rem_euclid(86400));
        // 400 years have the same number of days, whatever year they begin with.
        let (mut year, mut rest) = (1970 + days.div_euclid(146_097) * 400, days.rem_euclid(146_097));
        let length = |year: i64| 365 + i64::from(leap(year));
        while rest >= length(year) {
            rest -= length(year);
            year += 1;
        }
        let day_of_year = rest;
        let lengths = [31, 28 + i64::from(leap(year)), 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
        let mut month = 0;
        while rest >= lengths[month] {
            rest -= lengths[month];
            month += 1;
        }
        Self {
            year,
            month: month as i64,
            day: rest + 1,
            day_of_year,
            weekday: (days + 4).rem_euclid(7),
            hour: time / 3600,
            minute: time / 60 % 60,
            second: time % 60,
            micros,
            epoch: seconds,
        }
    }

    /// Year and week of ISO 8601.
    fn iso(&self) -> (i64, i64) {
        let from_monday = (self.weekday + 6) % 7;
        let week = (self.day_of_year - from_monday + 10) / 7;
        // A year has 53 weeks where it begins or ends on a Thursday.
        let weeks = |year: i64| {
            let begins = |year: i64| (year + year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400)) % 7;
            52 + i64::from(begins(year) == 4 || begins(year - 1) == 3)
        };
        match week {
            0 => (self.year - 1, weeks(self.year - 1)),
            _ if week > weeks(self.year) => (self.year + 1, 1),
            _ => (self.year, week),
        }
    }

    /// The time by a format of C; directives that are none stay as they are.
    pub(crate) fn format(&self, format: &str) -> String {
        let (mut out, mut rest) = (String::new(), format);
        while let Some(at) = rest.find('%') {
            out.push_str(&rest[..at]);
            let directive = &rest[at..];
            let inner = directive[1..].trim_start_matches(['_', '-', '0', '^', '#', '+']);
            let flags = &directive[1..directive.len() - inner.len()];
            let letters = inner.trim_start_matches(|c: char| c.is_ascii_digit());
            let width = inner[..inner.len() - letters.len()].parse::<usize>().ok();
            let behind = letters.strip_prefix(['E', 'O']).unwrap_or(letters);
            let letter = behind.chars().next();
            let end = directive.len() - behind.len() + letter.map_or(0, char::len_utf8);
            let written = letter.filter(|_| width.is_none_or(|width| width <= WIDEST));
            match written.and_then(|letter| self.directive(letter, flags, width)) {
                Some(text) => out.push_str(&text),
                None => out.push_str(&directive[..end]),
            }
            rest = &directive[end..];
        }
        out + rest
    }

    fn directive(&self, letter: char, flags: &str, width: Option<usize>) -> Option<String> {
        let name = |list: &[&str], i: i64| list.get(i as usize).copied().unwrap_or_default().to_owned();
        let twelve = (self.hour + 11) % 12 + 1;
        let (iso_year, iso_week) = self.iso();
        // Numbers come with their usual width and sign to fill it with.
        let (number, usual, fill) = match letter {
            'Y' => (self.year, 1, '0'),
            'C' => (self.year.div_euclid(100), 2, '0'),
            'y' => (self.year.rem_euclid(100), 2, '0'),
            'G' => (iso_year, 1, '0'),
            'g' => (iso_year.rem_euclid(100), 2, '0'),
            'm' => (self.month + 1, 2, '0'),
            'd' => (self.day, 2, '0'),
            'e' => (self.day, 2, ' '),
            'H' => (self.hour, 2, '0'),
            'k' => (self.hour, 2, ' '),
            'I' => (twelve, 2, '0'),
            'l' => (twelve, 2, ' '),
            'M' => (self.minute, 2, '0'),
            'S' => (self.second, 2, '0'),
            'j' => (self.day_of_year + 1, 3, '0'),
            'U' => ((self.day_of_year + 7 - self.weekday) / 7, 2, '0'),
            'W' => ((self.day_of_year + 7 - (self.weekday + 6) % 7) / 7, 2, '0'),
            'V' => (iso_week, 2, '0'),
            'u' => ((self.weekday + 6) % 7 + 1, 1, '0'),
            'w' => (self.weekday, 1, '0'),
            's' => (self.epoch, 1, '0'),
            _ => {
                let text = match letter {
                    'B' => name(&MONTHS, self.month),
                    'b' | 'h' => name(&MONTHS, self.month)[..3].to_owned(),
                    'A' => name(&DAYS, self.weekday),
                    'a' => name(&DAYS, self.weekday)[..3].to_owned(),
                    'p' if flags.contains('#') => if self.hour < 12 { "am" } else { "pm" }.to_owned(),
                    'p' => if self.hour < 12 { "AM" } else { "PM" }.to_owned(),
                    'P' => if self.hour < 12 { "am" } else { "pm" }.to_owned(),
                    // Python fills these in itself: microseconds, and the zone, which this time does not know.
                    'f' if flags.is_empty() && width.is_none() => format!("{:06}", self.micros),
                    'z' | 'Z' => String::new(),
                    'c' => self.format("%a %b %e %H:%M:%S %Y"),
                    'x' | 'D' => self.format("%m/%d/%y"),
                    'X' | 'T' => self.format("%H:%M:%S"),
                    'R' => self.format("%H:%M"),
                    'r' => self.format("%I:%M:%S %p"),
                    'F' => self.format("%Y-%m-%d"),
                    'n' => "\n".to_owned(),
                    't' => "\t".to_owned(),
                    '%' => "%".to_owned(),
                    _ => return None,
                };
                let upper = flags.contains('^') || flags.contains('#') && "aAbBh".contains(letter);
                let text = if upper { text.to_uppercase() } else { text };
                let fill = if flags.contains('0') { '0' } else { ' ' };
                let missing = width.unwrap_or(0).saturating_sub(text.len());
                return Some(std::iter::repeat_n(fill, missing).chain(text.chars()).collect());
            }
        };
        let (fill, usual) = match flags.chars().rfind(|c| matches!(c, '-' | '_' | '0' | '+')) {
            Some('-') => (fill, 1),
            Some('_') => (' ', usual),
            Some('0' | '+') => ('0', usual),
            _ => (fill, usual),
        };
        let wanted = width.unwrap_or(usual);
        let digits = number.to_string();
        Some(std::iter::repeat_n(fill, wanted.saturating_sub(digits.len())).chain(digits.chars()).collect())
    }
}
