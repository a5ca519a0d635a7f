//! The whole loop in the small world, through the binary: it must improve by its own judging, and must not by chance.
//!
//! One test takes minutes on a software GPU. `scripts/test` runs `seed_0_improves`, `scripts/test-full` all of them.

#![expect(clippy::unwrap_used, reason = "a test says what is wrong by panicking")]

use assert_cmd::cargo::cargo_bin_cmd;
use serde_json::Value;

/// Runs the demo and returns its JSON.
fn demo(args: &[&str]) -> Value {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("demo");
    let mut command = cargo_bin_cmd!("selfreward");
    command.args(["demo", "--json", "--out"]).arg(&out).args(args);
    let output = command.assert().success().get_output().stdout.clone();
    for model in ["M1", "M2", "M3"] {
        assert!(out.join(model).exists(), "{model} was not kept");
    }
    let page = std::fs::read_to_string(out.join("report.html")).unwrap();
    assert!(page.contains("True score by model") && !page.contains("Not finished"));
    serde_json::from_slice(&output).unwrap()
}

/// Mean true scores of M1, M2, M3.
fn truth(report: &Value) -> Vec<f64> {
    let models = report["models"].as_array().unwrap();
    assert_eq!(models.iter().map(|m| m["name"].as_str().unwrap()).collect::<Vec<_>>(), ["M1", "M2", "M3"]);
    models.iter().map(|m| m["truth_mean"].as_f64().unwrap()).collect()
}

/// Rises by at least 1.0 in all, and in each round by more than two standard errors of the paired gain.
fn improves(seed: &str) {
    let report = demo(&["--seed", seed]);
    let truth = truth(&report);
    assert!(truth[2] - truth[0] >= 1.0, "seed {seed}: {truth:?}");
    let head_to_head = report["head_to_head"].as_array().unwrap();
    for (round, (a, b)) in [("M2", "M1"), ("M3", "M2")].into_iter().enumerate() {
        let row = head_to_head.iter().find(|r| r["a"] == a && r["b"] == b).unwrap();
        let (win, loss) = (row["win"].as_f64().unwrap(), row["loss"].as_f64().unwrap());
        assert!(win > loss, "seed {seed}: {a} against {b}: {row}");
        let (gain, error) = (row["gain"].as_f64().unwrap(), row["gain_se"].as_f64().unwrap());
        assert!(
            gain > 2.0 * error,
            "seed {seed}: the gain of round {} is {gain} with a standard error of {error}",
            round + 1
        );
        assert!(
            (gain - (truth[round + 1] - truth[round])).abs() < 1e-6,
            "seed {seed}: the paired gain is not the difference of the means"
        );
    }
}

#[test]
fn seed_0_improves() {
    improves("0");
}

#[test]
fn seed_1_improves() {
    improves("1");
}

#[test]
fn seed_2_improves() {
    improves("2");
}

#[test]
fn a_random_judge_does_not() {
    let truth = truth(&demo(&["--judge", "random"]));
    assert!(truth[2] - truth[0] < 0.2, "{truth:?}");
}

#[test]
fn an_oracle_is_the_ceiling() {
    let (own, oracle) = (truth(&demo(&[])), truth(&demo(&["--judge", "oracle"])));
    assert!(oracle[2] >= own[2], "oracle {oracle:?}, own judge {own:?}");
}

/// The paper's negative control; in this world it does help at first, so only that it runs and
/// starts from the same model is asked.
#[test]
fn sft_on_the_best_runs() {
    let (own, best) = (truth(&demo(&["--rounds", "2"])), truth(&demo(&["--train", "sft-best"])));
    assert_eq!(own[0], best[0]);
}
