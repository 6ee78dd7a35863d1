//! Which target follows which, for every way in which one can fail.

use crate::support::{document, fallback, read_snapshot, target};
use modelux_core::models::{ModelCatalogue, Tier};
use modelux_core::pricing::Catalogue;
use modelux_core::routing::{DEPTH_MAX, FailedBy, Fit, Flat, LEAVES_MAX, Next, Node};
use serde_json::{Value, json};

const NONE_SPENT: &dyn Fn(usize) -> bool = &|_| false;

/// The order of the text.
fn all(flat: &Flat) -> Vec<usize> {
    (0..flat.leaves.len()).collect()
}

fn compile(config: &Value) -> Result<Flat, String> {
    let snapshot = read_snapshot(&document(&fallback(&[target(0, "m")], &json!({}))))?;
    let node: Node =
        serde_json::from_value(config.clone()).map_err(|fault| fault.to_string())?;
    Flat::compile(&node, &snapshot.providers, "default")
}

/// `[[x, y], z]`, the inner one going on for `inner`, the outer one for `outer`.
fn nested(inner: &Value, outer: &Value) -> Flat {
    let inside = fallback(&[target(0, "m"), target(0, "a")], &json!({"retry_on": inner}));
    compile(&fallback(&[inside, target(1, "b")], &json!({"retry_on": outer}))).unwrap()
}

#[test]
fn an_inner_config_that_gives_up_is_one_failure_of_the_outer() {
    let flat = nested(&json!(["timeout"]), &json!(["5xx"]));
    let next = |at, failed_by| flat.next(&all(&flat), at, failed_by, 1, NONE_SPENT);
    assert_eq!(next(0, FailedBy::Timeout), Next::Leaf(1));
    assert_eq!(next(0, FailedBy::Status(500)), Next::Leaf(2));
    assert_eq!(next(1, FailedBy::Timeout), Next::Nobody, "the outer one does not go on for it");
    assert_eq!(next(1, FailedBy::Status(503)), Next::Leaf(2));
    assert_eq!(next(0, FailedBy::Status(400)), Next::Nobody);
    assert_eq!(next(2, FailedBy::Status(500)), Next::Nobody);
}

#[test]
fn a_target_that_may_not_serve_is_passed_over_within_its_config_only() {
    let flat = nested(&json!(["5xx"]), &json!(["timeout"]));
    let next = |failed_by| flat.next(&[0, 2], 0, failed_by, 1, NONE_SPENT);
    assert_eq!(next(FailedBy::Status(500)), Next::Nobody, "500 is not the outer one's cause");
    assert_eq!(next(FailedBy::Timeout), Next::Leaf(2));
    let flat = nested(&json!(["5xx"]), &json!(["5xx"]));
    assert_eq!(flat.next(&[2], 0, FailedBy::Status(500), 1, NONE_SPENT), Next::Leaf(2));
}

#[test]
fn a_config_without_time_left_leaves_it_to_the_one_around_it() {
    let flat = nested(&json!(["5xx", "timeout"]), &json!(["timeout"]));
    let next = |failed_by, spent: usize| {
        flat.next(&all(&flat), 0, failed_by, 1, &|config| config == spent)
    };
    assert_eq!(next(FailedBy::Timeout, 1), Next::Leaf(2));
    assert_eq!(next(FailedBy::Status(500), 1), Next::Nobody);
    assert_eq!(next(FailedBy::Timeout, 0), Next::Nobody, "nor may anything inside go on");
}

#[test]
fn a_connect_failure_goes_on_whatever_the_list_says() {
    let flat = nested(&json!([]), &json!([]));
    assert_eq!(flat.next(&all(&flat), 0, FailedBy::Connect, 1, NONE_SPENT), Next::Leaf(1));
    assert_eq!(flat.next(&all(&flat), 1, FailedBy::Connect, 1, NONE_SPENT), Next::Leaf(2));
    assert_eq!(flat.next(&all(&flat), 0, FailedBy::Reset, 1, NONE_SPENT), Next::Nobody);
}

#[test]
fn each_word_of_retry_on_covers_its_causes_and_no_others() {
    let causes = [
        FailedBy::Timeout,
        FailedBy::Reset,
        FailedBy::Status(429),
        FailedBy::Status(401),
        FailedBy::Status(402),
        FailedBy::Status(403),
        FailedBy::Status(500),
        FailedBy::Status(529),
        FailedBy::Status(404),
        FailedBy::Status(418),
    ];
    for (word, covered) in [
        ("timeout", vec![0]),
        ("reset", vec![1]),
        ("429", vec![2]),
        ("auth", vec![3, 4, 5]),
        ("5xx", vec![6, 7]),
        ("404", vec![8]),
        ("529", vec![7]),
        ("connect", vec![]),
    ] {
        let config = fallback(&[target(0, "m"), target(1, "b")], &json!({"retry_on": [word]}));
        let flat = compile(&config).unwrap();
        for (index, cause) in causes.iter().enumerate() {
            let goes_on = flat.next(&all(&flat), 0, *cause, 1, NONE_SPENT) == Next::Leaf(1);
            assert_eq!(goes_on, covered.contains(&index), "{word} and {cause:?}");
        }
    }
    for word in ["399", "600", "4xx", "", "connct"] {
        let config = fallback(&[target(0, "m")], &json!({"retry_on": [word]}));
        assert!(compile(&config).is_err(), "{word:?}");
    }
}

#[test]
fn the_same_target_is_tried_again_only_for_answers_and_connect_failures() {
    let settings = json!({"max_retries_per_attempt": 2, "retry_on": ["429", "timeout"]});
    let flat = compile(&fallback(&[target(0, "m"), target(1, "b")], &settings)).unwrap();
    let next = |failed_by, tries| flat.next(&all(&flat), 0, failed_by, tries, NONE_SPENT);
    assert_eq!(next(FailedBy::Status(429), 1), Next::Again);
    assert_eq!(next(FailedBy::Status(429), 2), Next::Again);
    assert_eq!(next(FailedBy::Status(429), 3), Next::Leaf(1));
    assert_eq!(next(FailedBy::Connect, 1), Next::Again);
    assert_eq!(next(FailedBy::Timeout, 1), Next::Leaf(1), "a byte was written");
    assert_eq!(next(FailedBy::Status(500), 1), Next::Nobody, "not in the list");
}

#[test]
fn the_tighter_of_two_time_limits_holds() {
    let inner = fallback(&[target(0, "m")], &json!({"timeout_ms": 900, "idle_timeout_ms": 10}));
    let flat =
        compile(&fallback(&[inner], &json!({"timeout_ms": 500, "attempt_max_ms": u64::MAX})))
            .unwrap();
    assert_eq!((flat.leaves[0].timeout_ms, flat.leaves[0].idle_timeout_ms), (500, 10));
    assert!(flat.leaves[0].attempt_max_ms.checked_mul(1000).is_some(), "counted in µs");
}

#[test]
fn a_config_that_is_too_deep_too_wide_or_empty_is_refused() {
    let nest = |depth: usize| {
        (1..depth).fold(fallback(&[target(0, "m")], &json!({})), |inner, _| {
            fallback(&[inner], &json!({}))
        })
    };
    assert!(compile(&nest(DEPTH_MAX)).is_ok());
    assert!(compile(&nest(DEPTH_MAX + 1)).is_err());
    let wide = |count| fallback(&vec![target(0, "m"); count], &json!({}));
    assert!(compile(&wide(LEAVES_MAX)).is_ok());
    assert!(compile(&wide(LEAVES_MAX + 1)).is_err());
    assert!(compile(&fallback(&[], &json!({}))).is_err());
    assert!(compile(&target(0, "m")).is_err());
    assert!(compile(&fallback(&[target(9, "m")], &json!({}))).is_err());
}

#[test]
fn an_inner_word_on_output_limits_holds_and_a_maximum_is_only_tightened() {
    let mut close = target(0, "m");
    close["max_output_tokens"] = json!(500);
    close["max_cost_nusd"] = json!(7);
    let mut loose = target(0, "a");
    loose["max_output_tokens"] = json!(5000);
    loose["min_output_tokens"] = json!(9);
    let inner = json!({"fit_to_budget": "never", "default_output_tokens": 300});
    let outer = json!({"fit_to_budget": "always", "default_output_tokens": 200,
        "min_output_tokens": 5, "max_output_tokens": 1000});
    let inside = fallback(&[close, loose], &inner);
    let flat = compile(&fallback(&[inside, target(1, "b")], &outer)).unwrap();
    let limits = flat.leaves.iter().map(|leaf| {
        let tokens =
            [leaf.max_output_tokens, leaf.min_output_tokens, leaf.default_output_tokens];
        (tokens.map(Option::unwrap_or_default), leaf.max_cost_nusd, leaf.fit)
    });
    assert_eq!(
        limits.collect::<Vec<_>>(),
        [
            ([500, 5, 300], Some(7), Fit::Never),
            ([1000, 9, 300], None, Fit::Never),
            ([1000, 5, 200], None, Fit::Always),
        ]
    );
    // A document from before these keys says nothing of them.
    let plain = compile(&fallback(&[target(0, "m")], &json!({}))).unwrap();
    assert_eq!((plain.leaves[0].max_output_tokens, plain.leaves[0].fit), (None, Fit::Auto));
}

#[test]
fn what_the_file_says_of_a_model_overrides_the_catalogue() {
    let mut document = document(&fallback(&[target(0, "m")], &json!({})));
    document["server"]["default_output_tokens"] = json!(100);
    document["models"] = json!([{"provider": "alpha", "model": "gpt-4o", "context_tokens": 8192,
        "max_output_tokens": null, "tier": "premium", "tools": false}]);
    document["providers"][0]["vendor"] = json!("openai");
    document["providers"][1]["vendor"] = json!("openai");
    let snapshot = read_snapshot(&document).unwrap();
    assert_eq!(snapshot.server.limit_defaults().default_output_tokens, 100);
    assert_eq!(snapshot.server.limit_defaults().min_output_tokens, 64);
    let models = br#"{"format":1,"version":"t","vendors":{"openai":{"models":{"gpt-4o":{
        "context_tokens":128000,"max_output_tokens":16384,"tier":"standard","tools":true}}}}}"#;
    let prices = br#"{"format": 1, "version": "t", "vendors": {}}"#;
    let catalogue = Catalogue::from_json(prices).unwrap();
    let catalogue = catalogue.with_models(ModelCatalogue::from_json(models).unwrap());
    let figures = |provider| {
        let info = snapshot.model(&catalogue, provider, "gpt-4o").unwrap();
        (info.context_tokens, info.max_output_tokens, info.tier, info.tools)
    };
    assert_eq!(figures(0), (Some(8192), Some(16_384), Some(Tier::Premium), Some(false)));
    assert_eq!(figures(1), (Some(128_000), Some(16_384), Some(Tier::Standard), Some(true)));
    assert_eq!(snapshot.model(&catalogue, 0, "m"), None);
}
