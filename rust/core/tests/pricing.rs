//! Money: what is rounded, what is refused, which price holds when, which rule finds a model.

use modelux_core::models::ModelCatalogue;
use modelux_core::pricing::{Catalogue, Cost, Price, cost};
use modelux_core::usage::{ServiceTier, Usage};
use proptest::prelude::*;

const SHIPPED: &[u8] = include_bytes!("../../../modelux/pricing/data/prices.json");

fn usage(input_tokens: u64, output_tokens: u64) -> Usage {
    Usage { input_tokens, output_tokens, ..Usage::default() }
}

fn catalogue(models: &str) -> Catalogue {
    let text = format!(
        r#"{{"format":1,"version":"test","vendors":{{
            "v":{{"fallback":["w"],"models":[{models}]}},
            "w":{{"fallback":["v"],"models":[
                {{"id":"w","match":{{"equals":"w"}},"prices":[{{"rates":{{"input":7,"output":7}}}}]}}
            ]}}}}}}"#
    );
    match Catalogue::from_json(text.as_bytes()) {
        Ok(catalogue) => catalogue,
        Err(fault) => panic!("{fault}"),
    }
}

/// A model whose price names it: a million tokens of input cost that many nano-USD.
fn model(rule: &str, nusd: u64) -> String {
    format!(
        r#"{{"id":"m{nusd}","match":{rule},"prices":[{{"rates":{{"input":{nusd},"output":0}}}}]}}"#
    )
}

fn found(catalogue: &Catalogue, name: &str) -> Option<u64> {
    let price = catalogue.price("v", name, 0)?;
    cost(&usage(1_000_000, 0), &price).map(|cost| cost.input_nusd)
}

#[test]
fn each_line_rounds_up_once() {
    let price = Price::flat(1, 1, Some(1), None, 3);
    let used = Usage {
        input_tokens: 1,
        cache_write_tokens: 1,
        audio_input_tokens: 1,
        cached_tokens: 1,
        output_tokens: 1,
        reasoning_tokens: 1,
        ..Usage::default()
    };
    // Input with what falls back to it is one line, the cache another; and the fee.
    assert_eq!(cost(&used, &price), Some(Cost { input_nusd: 1 + 1 + 3, output_nusd: 1 }));
}

#[test]
fn an_exact_cost_is_not_raised() {
    let price = Price::flat(150_000_000, 600_000_000, None, None, 0);
    let charged = cost(&usage(1_000, 10), &price);
    assert_eq!(charged, Some(Cost { input_nusd: 150_000, output_nusd: 6_000 }));
}

#[test]
fn a_stated_price_of_zero_costs_nothing_and_a_missing_one_is_no_cost() {
    let free = cost(&usage(u64::MAX, u64::MAX), &Price::free());
    assert_eq!(free, Some(Cost { input_nusd: 0, output_nusd: 0 }));
    let embeddings = catalogue(
        r#"{"id":"e","match":{"equals":"e"},"prices":[{"rates":{"input":1}}]},
           {"id":"n","match":{"equals":"n"},"prices":[{"rates":{}}]},
           {"id":"later","match":{"starts_with":"n"},"prices":[{"rates":{"input":1}}]}"#,
    );
    let price = embeddings.price("v", "e", 0).unwrap();
    assert!(cost(&usage(5, 0), &price).is_some());
    assert_eq!(cost(&usage(5, 1), &price), None);
    // Named without a price: not free, and not the price of another rule that would match too.
    assert_eq!(embeddings.price("v", "n", 0), None);
    assert!(embeddings.knows("v", "n"));
    assert_eq!(embeddings.price("v", "unknown", 0), None);
    assert_eq!(embeddings.price("unknown", "e", 0), None);
}

#[test]
fn a_cost_beyond_2_to_the_53_is_refused_and_never_wraps() {
    let price = Price::flat(1 << 53, 0, None, None, 0);
    let most = cost(&usage(1_000_000, 0), &price);
    assert_eq!(most, Some(Cost { input_nusd: 1 << 53, output_nusd: 0 }));
    assert_eq!(cost(&usage(1_000_001, 0), &price), None);
    let price = Price::flat(u64::MAX, u64::MAX, Some(u64::MAX), Some(u64::MAX), u64::MAX);
    assert_eq!(cost(&usage(u64::MAX, u64::MAX), &price), None);
    assert_eq!(cost(&usage(0, 0), &price), None);
    let everything = Usage {
        input_tokens: u64::MAX,
        cached_tokens: u64::MAX,
        cache_write_tokens: u64::MAX,
        cache_write_1h_tokens: u64::MAX,
        audio_input_tokens: u64::MAX,
        image_input_tokens: u64::MAX,
        output_tokens: u64::MAX,
        reasoning_tokens: u64::MAX,
        audio_output_tokens: u64::MAX,
        ..Usage::default()
    };
    assert_eq!(cost(&everything, &price), None);
    assert_eq!(cost(&everything, &Price::flat(1, 1, None, None, 0)), None);
}

#[test]
fn a_tier_prices_the_whole_prompt_from_one_token_beyond_its_start() {
    let tiered = catalogue(
        r#"{"id":"t","match":{"equals":"t"},"prices":[{
            "rates":{"input":1000000,"cached":100000,"output":2000000},
            "tiers":[{"over":100,"rates":{"input":3000000,"cached":300000,"output":4000000}},
                     {"over":200,"rates":{"input":5000000,"output":6000000}}]}]}"#,
    );
    let price = tiered.price("v", "t", 0).unwrap();
    let charged = |input_tokens, cached_tokens| {
        let used = Usage { input_tokens, cached_tokens, output_tokens: 1, ..Usage::default() };
        cost(&used, &price).map(|cost| (cost.input_nusd, cost.output_nusd))
    };
    assert_eq!(charged(50, 50), Some((50 + 5, 2)));
    assert_eq!(charged(51, 50), Some((153 + 15, 4)));
    assert_eq!(charged(150, 51), Some((201 * 5, 6)));
}

#[test]
fn a_write_for_an_hour_without_its_own_price_costs_as_any_write() {
    let used = Usage { cache_write_1h_tokens: 1_000_000, ..Usage::default() };
    let price = Price::flat(1, 1, None, Some(5), 0);
    assert_eq!(cost(&used, &price).map(|cost| cost.input_nusd), Some(5));
    let price = Price::flat(1, 1, None, None, 0);
    assert_eq!(cost(&used, &price).map(|cost| cost.input_nusd), Some(1));
}

#[test]
fn the_last_price_that_holds_counts_and_else_the_first() {
    let dated = catalogue(
        r#"{"id":"d","match":{"equals":"d"},"prices":[
            {"rates":{"input":1,"output":0}},
            {"from_s":1000000,"rates":{"input":2,"output":0}},
            {"daily_s":[3600,7200],"rates":{"input":3,"output":0}},
            {"daily_s":[82800,1800],"rates":{"input":4,"output":0}}]},
           {"id":"f","match":{"equals":"f"},"prices":[
            {"from_s":2000000,"rates":{"input":5,"output":0}},
            {"from_s":3000000,"rates":{"input":6,"output":0}}]}"#,
    );
    let charged = |name: &str, at: i64| {
        let price = dated.price("v", name, at).unwrap();
        cost(&usage(1_000_000, 0), &price).map(|cost| cost.input_nusd)
    };
    let noon = 12 * 3600;
    assert_eq!(charged("d", noon), Some(1));
    assert_eq!(charged("d", 86_400 * 11 + noon), Some(1));
    assert_eq!(charged("d", 86_400 * 12 + noon), Some(2));
    assert_eq!(charged("d", 1_000_000), Some(2));
    for (second, nusd) in [(3599, 2), (3600, 3), (7199, 3), (7200, 2), (82_799, 2)] {
        assert_eq!(charged("d", 86_400 * 20 + second), Some(nusd), "{second}");
    }
    for second in [82_800, 86_399, 0, 1799] {
        assert_eq!(charged("d", 86_400 * 20 + second), Some(4), "{second}");
    }
    assert_eq!(charged("d", -1), Some(4));
    assert_eq!(charged("d", i64::MIN), Some(1));
    assert_eq!((charged("f", 0), charged("f", i64::MAX)), (Some(5), Some(6)));
}

#[test]
fn the_first_model_whose_rule_holds_is_found() {
    let rules = [
        r#"{"starts_with":"a-"}"#,
        r#"{"equals":"a-b"}"#,
        r#"{"or":[{"equals":"c"},{"ends_with":"-z"}]}"#,
        r#"{"and":[{"contains":"q"},{"not":{"contains":"tts"}}]}"#,
        r#"{"digits":"d-####-##"}"#,
        r#"{"digits_start":"e#"}"#,
        r#"{"equals":"c-z"}"#,
    ];
    let models: Vec<_> = rules.iter().zip(1..).map(|(rule, nusd)| model(rule, nusd)).collect();
    let catalogue = catalogue(&models.join(","));
    for (name, nusd) in [
        ("a-b", Some(1)),
        ("A-B", Some(1)),
        ("c", Some(3)),
        ("c-z", Some(3)),
        ("xqx", Some(4)),
        ("q-tts", None),
        ("d-2025-01", Some(5)),
        ("d-2025-0x", None),
        ("d-2025-011", None),
        ("d-2025-0", None),
        ("e5x", Some(6)),
        ("e", None),
        ("ex", None),
        ("", None),
        ("models/c", Some(3)),
        ("w", Some(7)),
        ("\u{e9}", None),
    ] {
        assert_eq!(found(&catalogue, name), nusd, "{name}");
    }
    // Only what can be called is shown, and here no rule knows its model's own name.
    assert!(catalogue.known_models("v").is_empty());
    assert_eq!(catalogue.known_models("w"), ["w"]);
    assert!(catalogue.known_models("unknown").is_empty());
}

#[test]
fn a_date_without_dashes_is_tried_with_them() {
    let catalogue = catalogue(&format!(
        "{},{}",
        model(r#"{"digits":"g-####-##-##"}"#, 1),
        model(r#"{"equals":"g-20250230"}"#, 2)
    ));
    for (name, nusd) in [
        ("g-20251211", Some(1)),
        ("g-20240229", Some(1)),
        ("g-20250229", None),
        ("g-20250230", Some(2)),
        ("g-20251311", None),
        ("g-20251200", None),
        ("g-19991211", None),
        ("g-202512111", None),
        ("g-2025121", None),
        ("g-20251211-x", None),
    ] {
        assert_eq!(found(&catalogue, name), nusd, "{name}");
    }
}

#[test]
fn a_catalogue_that_contradicts_itself_is_refused() {
    for (text, why) in [
        ("", "EOF"),
        ("{}", "missing field"),
        (r#"{"format":2,"version":"","vendors":{}}"#, "format 2"),
        (r#"{"format":1,"version":"","vendors":{},"x":1}"#, "unknown field"),
        (
            r#"{"format":1,"version":"","vendors":{"v":{"fallback":["w"],"models":[]}}}"#,
            "falls back to w",
        ),
        (
            r#"{"format":1,"version":"","vendors":{"v":{"fallback":[],"models":[
                {"id":"m","match":{"equals":"m"},"prices":[]}]}}}"#,
            "m has",
        ),
        (
            r#"{"format":1,"version":"","vendors":{"v":{"fallback":[],"models":[
                {"id":"m","match":{"equals":"m"},"prices":[{"rates":{"input":-1}}]}]}}}"#,
            "invalid value",
        ),
        (
            r#"{"format":1,"version":"","vendors":{"v":{"fallback":[],"models":[
                {"id":"m","match":{"equals":"m"},"prices":[{"rates":{"input":1},
                "tiers":[{"over":9,"rates":{}},{"over":9,"rates":{}}]}]}]}}}"#,
            "m has",
        ),
        (
            r#"{"format":1,"version":"","vendors":{"v":{"fallback":[],"models":[
                {"id":"m","match":{"equals":"m"},"prices":[{"rates":{"output":1},
                "from_s":1,"daily_s":[1,2]}]}]}}}"#,
            "m has",
        ),
    ] {
        let fault = Catalogue::from_json(text.as_bytes()).err().map(|fault| fault.to_string());
        assert!(fault.as_ref().is_some_and(|fault| fault.contains(why)), "{fault:?}");
    }
}

#[test]
fn the_shipped_catalogue_can_be_read_and_prices_every_vendor() {
    let catalogue = Catalogue::from_json(SHIPPED).unwrap();
    assert!(catalogue.version().starts_with("genai-prices "));
    for (vendor, model) in [
        ("openai", "gpt-4o-mini"),
        ("anthropic", "claude-3-5-haiku-20241022"),
        ("google", "models/gemini-2.5-flash"),
        ("mistral", "mistral-large-latest"),
        ("groq", "llama-3.3-70b-versatile"),
        ("deepseek", "deepseek-chat"),
        ("together", "meta-llama/Llama-3.3-70B-Instruct-Turbo"),
        ("fireworks", "accounts/fireworks/models/deepseek-v3p2"),
        ("xai", "grok-4"),
        ("openrouter", "openai/gpt-4o-mini"),
        ("cerebras", "gpt-oss-120b"),
        ("azure_openai", "gpt-4o"),
    ] {
        assert!(catalogue.price(vendor, model, 1_790_000_000).is_some(), "{vendor} {model}");
    }
}

/// The catalogue of one model `m` with these service tiers and whatever else is known of it.
fn with_info(rates: &str, info: &str) -> Catalogue {
    let prices = catalogue(&format!(
        r#"{{"id":"m","match":{{"starts_with":"m"}},"prices":[{{"rates":{{{rates}}},"search":7}}]}}"#
    ));
    let models = format!(
        r#"{{"format":1,"version":"today","vendors":{{"v":{{
            "service_tiers":{{"priority":4000}},"models":{{"m":{{{info}}}}}}}}}}}"#
    );
    match ModelCatalogue::from_json(models.as_bytes()) {
        Ok(models) => prices.with_models(models),
        Err(fault) => panic!("{fault}"),
    }
}

#[test]
fn the_service_tier_that_an_answer_names_decides_its_price() {
    let catalogue = with_info(
        r#""input":1000000,"cached":100000,"output":2000000"#,
        r#""service_tiers":{"flex":500,"priority":[2000,3000,1500],"fast":6000,"speed":2000}"#,
    );
    let charged = |name: &str, service_tier| {
        let price = catalogue.price("v", name, 0).unwrap();
        let usage = Usage { cached_tokens: 10, service_tier, ..usage(10, 10) };
        cost(&usage, &price).map(|cost| (cost.input_nusd, cost.output_nusd))
    };
    let standard = Some((10 + 1, 20));
    assert_eq!(charged("m", None), standard);
    assert_eq!(charged("m", Some(ServiceTier::Standard)), standard);
    assert_eq!(charged("m", Some(ServiceTier::Flex)), Some((5 + 1, 10)));
    assert_eq!(charged("m", Some(ServiceTier::Priority)), Some((20 + 3, 30)));
    assert_eq!(charged("m", Some(ServiceTier::Fast)), Some((60 + 6, 120)));
    assert_eq!(charged("m", Some(ServiceTier::Speed)), Some((20 + 2, 40)));
    // A name that nobody knows costs what the dearest does.
    assert_eq!(charged("m", Some(ServiceTier::Unknown)), Some((60 + 6, 120)));
    // A model that is not listed may have any tier of its vendor's, and none that is cheaper.
    assert_eq!(charged("m2", Some(ServiceTier::Priority)), Some((40 + 4, 80)));
    assert_eq!(charged("m2", Some(ServiceTier::Flex)), standard);
    // A price that an operator states is flat.
    let price = Price::flat(1_000_000, 2_000_000, None, None, 0);
    let priority = Usage { service_tier: Some(ServiceTier::Priority), ..usage(10, 10) };
    assert_eq!(cost(&priority, &price), Some(Cost { input_nusd: 10, output_nusd: 20 }));
}

#[test]
fn searches_images_and_regions_cost_what_they_cost() {
    let catalogue = with_info(
        r#""input":1000000,"output":2000000,"image_output":30000000"#,
        r#""region_permille":1100,"search_nusd":9"#,
    );
    let price = catalogue.price("v", "m", 0).unwrap();
    let charged =
        |usage: Usage| cost(&usage, &price).map(|cost| (cost.input_nusd, cost.output_nusd));
    assert_eq!(charged(Usage { searches: 2, ..usage(10, 10) }), Some((10 + 18, 20)));
    assert_eq!(charged(Usage { in_region: true, ..usage(10, 10) }), Some((11, 22)));
    let painted = Usage { image_output_tokens: 4, ..usage(0, 10) };
    assert_eq!(charged(painted), Some((0, 6 * 2 + 4 * 30)));
    // A search without a price is not free.
    let flat = Price::flat(1, 1, None, None, 0);
    assert_eq!(cost(&Usage { searches: 1, ..usage(1, 1) }, &flat), None);
    let nothing = cost(&Usage { searches: 1, ..usage(1, 1) }, &Price::free());
    assert_eq!(nothing, Some(Cost { input_nusd: 0, output_nusd: 0 }));
}

#[test]
fn a_model_is_known_by_its_name_and_else_by_its_price() {
    let models = include_bytes!("../../../modelux/pricing/data/models.json");
    let models = ModelCatalogue::from_json(models).unwrap();
    let catalogue = Catalogue::from_json(SHIPPED).unwrap().with_models(models);
    assert!(catalogue.models_version().contains("litellm"));
    let window = |vendor: &str, model: &str| catalogue.info(vendor, model)?.context_tokens;
    assert_eq!(window("openai", "gpt-4o-mini"), Some(128_000));
    assert_eq!(window("anthropic", "claude-haiku-4-5-20991231"), Some(200_000));
    assert_eq!(window("google", "models/Gemini-2.5-Flash"), Some(1_048_576));
    assert_eq!(window("anthropic", "claude-sonnet-4-5-20250929"), Some(1_000_000));
    assert_eq!(catalogue.info("openai", "unknown"), None);
    assert_eq!(catalogue.info("unknown", "gpt-4o"), None);
    for (vendor, model) in [
        ("openai", "gpt-5.4"),
        ("anthropic", "claude-opus-4-6"),
        ("google", "gemini-2.5-pro"),
        ("mistral", "mistral-large-latest"),
        ("groq", "openai/gpt-oss-120b"),
        ("deepseek", "deepseek-chat"),
        ("together", "openai/gpt-oss-120b"),
        ("fireworks", "accounts/fireworks/models/deepseek-v4-flash"),
        ("xai", "grok-4.3"),
        ("openrouter", "openai/gpt-4o-mini"),
        ("cerebras", "gpt-oss-120b"),
    ] {
        assert!(window(vendor, model).is_some_and(|tokens| tokens >= 8192), "{vendor} {model}");
    }
}

fn any_rate() -> impl Strategy<Value = Option<u64>> {
    prop_oneof![Just(None), (0..=u64::MAX).prop_map(Some), (0..10_000_u64).prop_map(Some)]
}

fn any_tokens() -> impl Strategy<Value = u64> {
    prop_oneof![0..=u64::MAX, 0..=1_u64 << 40, 0..5000_u64]
}

proptest! {
    #[test]
    fn a_cost_is_never_below_the_exact_one_and_at_most_one_a_line_above(
        tokens in prop::array::uniform6(any_tokens()),
        rates in (0..=1_u64 << 40, 0..=1_u64 << 40, any_rate(), any_rate()),
        fee in any_tokens(),
    ) {
        let [input, cached, written, audio, output, reasoning] = tokens;
        let used = Usage {
            input_tokens: input,
            cached_tokens: cached,
            cache_write_tokens: written,
            audio_input_tokens: audio,
            output_tokens: output,
            reasoning_tokens: reasoning,
            ..Usage::default()
        };
        let price = Price::flat(rates.0, rates.1, rates.2, rates.3, fee);
        let line = |tokens: u64, rate: u64| u128::from(tokens).checked_mul(u128::from(rate));
        let exact_millionths = [
            line(input, rates.0),
            line(audio, rates.0),
            line(cached, rates.2.unwrap_or(rates.0)),
            line(written, rates.3.unwrap_or(rates.0)),
            line(output, rates.1),
            line(reasoning, rates.1),
            line(fee, 1_000_000),
        ]
        .into_iter()
        .try_fold(0_u128, |sum, line| sum.checked_add(line?));
        match (cost(&used, &price), exact_millionths) {
            (Some(cost), Some(exact)) => {
                let charged = u128::from(cost.input_nusd) + u128::from(cost.output_nusd);
                prop_assert!(charged * 1_000_000 >= exact);
                prop_assert!(charged * 1_000_000 < exact + 4 * 1_000_000);
                prop_assert!(charged <= 1 << 53);
            }
            (None, Some(exact)) => prop_assert!(exact.div_ceil(1_000_000) + 4 > 1 << 53),
            (None, None) => {}
            (Some(_), None) => prop_assert!(false, "a sum that overflows has no cost"),
        }
    }

    #[test]
    fn any_name_finds_a_model_or_none(name in ".*", digits in "[a-z0-9#-]{0,20}") {
        let catalogue = catalogue(&model(r#"{"digits_start":"a-##"}"#, 1));
        let _ = found(&catalogue, &name);
        let _ = found(&catalogue, &format!("{digits}-20251211{name}"));
    }
}
