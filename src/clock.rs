//! Time: the one place from which the library reads a clock.

#![expect(clippy::disallowed_methods, reason = "this is the place that the others are sent to")]

use std::time::Duration;
pub(crate) use web_time::Instant;
use web_time::{SystemTime, UNIX_EPOCH};

/// Now, to measure how long something takes.
pub(crate) fn now() -> Instant {
    Instant::now()
}

/// Time since 1970; zero where the clock stands before that.
pub(crate) fn since_epoch() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// The seconds by which local time is ahead of UTC at a time since 1970; 0 where the system does not say.
#[cfg(not(target_family = "wasm"))]
pub(crate) fn local_offset(since_epoch: Duration) -> i64 {
    let time = jiff::Timestamp::from_second(since_epoch.as_secs() as i64).unwrap_or_default();
    jiff::tz::TimeZone::system().to_offset(time).seconds().into()
}

/// The seconds by which local time is ahead of UTC at a time since 1970; 0 where the browser does not say.
#[cfg(target_family = "wasm")]
pub(crate) fn local_offset(since_epoch: Duration) -> i64 {
    let date = js_sys::Date::new(&(since_epoch.as_millis() as f64).into());
    // Minutes by which it is behind; NaN, which becomes 0, where the browser has no such date.
    -60 * date.get_timezone_offset() as i64
}
