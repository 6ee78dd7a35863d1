//! The upper bound of an attempt: every row of its table, and that no charge passes it.

use modelux_core::bound::{
    Bound, BoundFault, LimitDefaults, OutputLimit, bound, bound_by_count, output_limit,
};
use modelux_core::models::{ModelCatalogue, ModelInfo};
use modelux_core::patch::{Edit, patch};
use modelux_core::pricing::{Catalogue, Price, cost};
use modelux_core::routing::{Fit, Flat, Leaf};
use modelux_core::scan::{Facts, LimitKey, ScanFault, Shape, scan};
use modelux_core::usage::{ServiceTier, Usage};
use proptest::prelude::*;
use serde_json::{Value, json};

/// Nano-USD of one token.
const IN: u64 = 3;
const OUT: u64 = 10;
const MTOK: u64 = 1_000_000;
/// Around the one message of most bodies here, and for the prompt itself.
const AROUND: u64 = 32;
const WINDOW: u64 = 1000;

fn facts_of(body: &str, shape: Shape) -> Facts {
    match scan(body.as_bytes(), shape) {
        Ok(facts) => facts,
        Err(fault) => panic!("{body}: {fault:?}"),
    }
}

/// A chat with one empty message and these members.
fn chat(members: &str) -> Facts {
    let body = format!(r#"{{"model":"m","messages":[{{"role":"user"}}],{members}}}"#);
    facts_of(&body.replace(",}", "}"), Shape::Chat)
}

/// A chat with one message whose one part is that.
fn part(part: &str) -> Facts {
    let body = format!(r#"{{"model":"m","messages":[{{"role":"user","content":[{part}]}}]}}"#);
    facts_of(&body, Shape::Chat)
}

fn completion(members: &str) -> Facts {
    facts_of(&format!(r#"{{"model":"m",{members}}}"#), Shape::Completions)
}

fn flat() -> Price {
    Price::flat(IN * MTOK, OUT * MTOK, None, None, 0)
}

/// Rates in nano-USD a token, as the catalogue writes them.
fn rates_of(rates: &Value) -> Value {
    let rates = rates.as_object().into_iter().flatten();
    rates.map(|(name, nusd)| (name.clone(), json!(nusd.as_u64().unwrap_or(0) * MTOK))).collect()
}

/// A price with these rates, in nano-USD a token, and what is known of its model.
fn price_of(rates: &Value, more: &Value, info: &Value) -> (Price, Option<ModelInfo>) {
    let mut price = json!({"rates": rates_of(rates)});
    for (name, value) in more.as_object().into_iter().flatten() {
        price[name] = value.clone();
    }
    for tier in price.get_mut("tiers").and_then(Value::as_array_mut).into_iter().flatten() {
        tier["rates"] = rates_of(&tier["rates"]);
    }
    compiled(&price, info)
}

/// What the catalogues say of a model with this price and that information.
fn compiled(price: &Value, info: &Value) -> (Price, Option<ModelInfo>) {
    let prices = json!({"format": 1, "version": "t", "vendors": {"v": {"fallback": [],
        "models": [{"id": "m", "match": {"equals": "m"}, "prices": [price]}]}}});
    let models =
        json!({"format": 1, "version": "t", "vendors": {"v": {"models": {"m": info}}}});
    let read = Catalogue::from_json(prices.to_string().as_bytes()).and_then(|prices| {
        Ok(prices.with_models(ModelCatalogue::from_json(models.to_string().as_bytes())?))
    });
    match read.map(|all| (all.price("v", "m", 0), all.info("v", "m"))) {
        Ok((Some(price), info)) => (price, info),
        Ok((None, _)) => panic!("no price in {prices}"),
        Err(fault) => panic!("{fault} in {prices} or {models}"),
    }
}

fn window(tokens: u64) -> ModelInfo {
    ModelInfo { context_tokens: Some(tokens), ..ModelInfo::default() }
}

fn bound_at(facts: &Facts, price: &Price, model: Option<&ModelInfo>, vendor: &str) -> Bound {
    match bound(facts, Shape::Chat, Some(price), model, vendor, None) {
        Ok(bound) => bound,
        Err(fault) => panic!("{fault:?}"),
    }
}

/// How many tokens the input side counts for, at a price where each costs the same.
fn input_tokens(facts: &Facts, model: Option<&ModelInfo>, vendor: &str) -> u64 {
    let nusd = bound_at(facts, &flat(), model, vendor).input_nusd().unwrap_or(u64::MAX);
    assert_eq!(nusd % IN, 0);
    nusd / IN
}

/// Whether there is no bound, and then only what a target states.
fn is_unbounded(facts: &Facts, price: &Price, model: Option<&ModelInfo>) -> bool {
    match bound(facts, Shape::Chat, Some(price), model, "v", None) {
        Err(BoundFault::Unbounded(why)) => {
            let stated = bound(facts, Shape::Chat, Some(price), model, "v", Some(77));
            let held = stated.map(|bound| bound.at(Some(1_000_000)));
            assert_eq!(held, Ok(Some(77)), "{why}");
            true
        }
        _ => false,
    }
}

// --- input -------------------------------------------------------------------------------------

#[test]
fn text_counts_a_token_a_byte_and_sixteen_a_message() {
    let body = r#"{"model":"m","messages":[{"role":"user","content":"h\u00e9"},{}]}"#;
    let facts = facts_of(body, Shape::Chat);
    assert_eq!(input_tokens(&facts, None, "openai"), body.len() as u64 + 3 * 16);
    for tools in [r#""tools":[{"type":"function"}],"#, r#""functions":[{"name":"f"}],"#] {
        let facts = chat(tools);
        assert_eq!(input_tokens(&facts, None, "v"), facts.text_bytes + AROUND + 1024);
    }
    let facts = chat(r#""tools":[],"#);
    assert_eq!(input_tokens(&facts, None, "v"), facts.text_bytes + AROUND);
}

#[test]
fn an_image_counts_the_models_maximum_and_else_the_largest_that_we_assume() {
    let facts = part(
        r#"{"type":"image_url","image_url":{"url":"data:image/png;base64,AAAA","detail":"low"}},
           {"type":"image_url","image_url":"https://x.test/a.png"}"#,
    );
    assert_eq!((facts.images, facts.media_bytes, facts.has_unseen), (2, 26, false));
    let text = facts.text_bytes + AROUND;
    assert_eq!(input_tokens(&facts, None, "openai"), text + 2 * 65_536);
    let model = ModelInfo { image_tokens_max: Some(1445), ..ModelInfo::default() };
    assert_eq!(input_tokens(&facts, Some(&model), "openai"), text + 2 * 1445);
}

#[test]
fn audio_counts_by_the_smallest_bytes_that_the_vendor_calls_a_token() {
    let data = "A".repeat(1601);
    let facts = part(&format!(
        r#"{{"type":"input_audio","input_audio":{{"data":"{data}","format":"mp3"}}}}"#
    ));
    assert_eq!((facts.audio_bytes, facts.has_unseen), (1601, false));
    let text = facts.text_bytes + AROUND;
    assert_eq!(input_tokens(&facts, None, "openai"), text + 17);
    assert_eq!(input_tokens(&facts, None, "google"), text + 101);
    assert_eq!(input_tokens(&facts, None, "vllm"), text + 1601);
}

#[test]
fn a_file_may_hold_more_tokens_than_bytes_unless_it_is_plain_text() {
    for file in [
        r#"{"type":"file","file":{"filename":"a.pdf","file_data":"data:application/pdf;base64,A"}}"#,
        r#"{"type":"document_url","document_url":"data:application/pdf;base64,A"}"#,
        r#"{"type":"image_url","image_url":{"url":"data:application/pdf;base64,A"}}"#,
    ] {
        let facts = part(file);
        assert_eq!((facts.file_bytes, facts.has_unseen), (29, false), "{file}");
        let images = facts.images * 65_536;
        let text = facts.text_bytes + AROUND;
        assert_eq!(input_tokens(&facts, None, "v"), text + images + 29 * 64, "{file}");
    }
    let facts = part(r#"{"type":"file","file":{"file_data":"data:text/csv;base64,AAAA"}}"#);
    assert_eq!((facts.file_bytes, facts.text_file_bytes), (0, 25));
    assert_eq!(input_tokens(&facts, None, "v"), facts.text_bytes + AROUND + 25);
}

#[test]
fn no_input_is_more_than_the_context_window() {
    let image = part(r#"{"type":"image_url","image_url":{"url":"https://x.test/a.png"}}"#);
    assert_eq!(input_tokens(&image, Some(&window(WINDOW)), "v"), WINDOW);
    // Each prompt has a window of its own.
    let text = "x".repeat(2000);
    let facts = completion(&format!(r#""prompt":["{text}","{text}"]"#));
    let info = window(WINDOW);
    let two = bound(&facts, Shape::Completions, Some(&flat()), Some(&info), "v", None);
    assert_eq!(two.map(|bound| bound.input_nusd()), Ok(Some(2 * WINDOW * IN)));
}

#[test]
fn what_is_dearest_may_fill_the_window() {
    let (price, _) =
        price_of(&json!({"input": 3, "audio_input": 7, "output": 10}), &json!({}), &json!({}));
    let data = "A".repeat(600);
    let facts = part(&format!(r#"{{"input_audio":{{"data":"{data}"}}}}"#));
    assert!(facts.text_bytes + AROUND < 400 && facts.text_bytes > 40);
    let nusd = |tokens| bound_at(&facts, &price, Some(&window(tokens)), "v").input_nusd();
    assert_eq!(nusd(WINDOW), Some(600 * 7 + (facts.text_bytes + AROUND) * 3 + 1));
    assert_eq!(nusd(620), Some(600 * 7 + 20 * 3 + 1));
    assert_eq!(nusd(500), Some(500 * 7 + 1));

    let rates = json!({"input": 3, "audio_input": 7, "image_input": 5, "output": 10});
    let (price, _) = price_of(&rates, &json!({}), &json!({}));
    let facts = part(&format!(
        r#"{{"input_audio":{{"data":"{data}"}}}},{{"image_url":{{"url":"https://x.test/"}}}}"#
    ));
    let info = ModelInfo { image_tokens_max: Some(300), ..window(700) };
    let input = bound_at(&facts, &price, Some(&info), "v").input_nusd();
    assert_eq!(input, Some(600 * 7 + 100 * 5 + 2));
}

#[test]
fn content_that_cannot_be_seen_counts_the_whole_window() {
    let part_of = |text: &str| format!(r#"{{"role":"user","content":[{text}]}}"#);
    let messages = |message: &str| format!(r#"{{"model":"m","messages":[{message}]}}"#);
    let mut bodies: Vec<String> = [
        r#""previous_response_id":"r""#,
        r#""conversation":{"id":"c"}"#,
        r#""prompt":{"id":"p"}"#,
        r#""file_ids":["f"]"#,
        r#""vector_store_ids":["v"]"#,
        r#""data_sources":[{}]"#,
        r#""cached_content":"c""#,
        r#""extra_body":{"google":{"cached_content":"c"}}"#,
        r#""google":{"cached_content":"c"}"#,
    ]
    .map(|member| format!(r#"{{"model":"m",{member}}}"#))
    .into();
    bodies.extend(
        [
            r#"{"type":"file","file":{"file_id":"f"}}"#,
            r#"{"type":"file","file_id":"f"}"#,
            r#"{"type":"file","file":"file-123"}"#,
            r#"{"type":"file","file":{"file_data":"https://x.test/a.pdf"}}"#,
            r#"{"type":"file","file":{"file_url":"x"}}"#,
            r#"{"type":"file","file":{"file_data":"\u0068ttps://x.test/a.pdf"}}"#,
            r#"{"type":"document_url","document_url":"https://x.test/a.pdf"}"#,
            r#"{"type":"input_audio","input_audio":"https://x.test/a.mp3"}"#,
            r#"{"type":"video_url","video_url":{"url":"x"}}"#,
            r#"{"video_url":{"url":"x"}}"#,
            r#"{"type":"text","type":"video_url"}"#,
            r#"{"type":"something"}"#,
        ]
        .map(|text| messages(&part_of(text))),
    );
    bodies.push(messages(r#"{"role":"assistant","audio":{"id":"a"}}"#));
    bodies.push(messages(r#"{"role":"user","content":{"type":"file","file_id":"f"}}"#));
    for body in bodies {
        let facts = facts_of(&body, Shape::Chat);
        assert!(facts.has_unseen, "{body}");
        assert!(is_unbounded(&facts, &flat(), None), "{body}");
        assert_eq!(input_tokens(&facts, Some(&window(WINDOW)), "v"), WINDOW, "{body}");
        // Of free tokens no number costs anything.
        let (free, _) = price_of(&json!({"input": 0, "output": 0}), &json!({}), &json!({}));
        assert_eq!(bound_at(&facts, &free, None, "v").at(Some(9)), Some(0));
    }
    let embedded = facts_of(r#"{"model":"m","input":[{"image":"x"}]}"#, Shape::Embeddings);
    assert!(embedded.has_unseen);
}

#[test]
fn text_and_settings_are_seen() {
    for text in [
        r#"{"type":"text","text":"x","cache_control":{"type":"ephemeral"},"other":1}"#,
        r#"{"type":"refusal","refusal":"x"}"#,
        r#"{"text":"x"}"#,
        r#"{"type":"thinking","thinking":[{"type":"text","text":"x"}]}"#,
    ] {
        assert!(!part(text).has_unseen, "{text}");
    }
    for member in [
        r#""previous_response_id":null,"conversation":null,"file_ids":[],"#,
        r#""extra_body":{"google":{"thinking_config":{"thinking_budget":5}}},"#,
        r#""metadata":{"a":"b"},"verbosity":"low","reasoning_effort":"high","#,
        r#""tools":[{"type":"custom"},{"name":"f","input_schema":{}},{"function":{}}],"#,
        r#""web_search_options":null,"plugins":[],"enable_search":false,"#,
    ] {
        let facts = chat(member);
        assert!(!facts.has_unseen, "{member}");
        assert!(!is_unbounded(&facts, &flat(), None), "{member}");
    }
}

#[test]
fn work_of_the_providers_own_tools_without_a_maximum_has_no_bound() {
    let (price, info) = price_of(
        &json!({"input": 3, "output": 10}),
        &json!({"search": 5}),
        &json!({"context_tokens": 1000}),
    );
    for member in [
        r#""web_search_options":{},"#,
        r#""search_parameters":{"mode":"on"},"#,
        r#""plugins":[{"id":"web"}],"#,
        r#""mcp_servers":[{}],"#,
        r#""tools":[{"type":"web_search"}],"#,
        r#""tools":[{"type":"web_search","max_uses":2,"max_uses":1}],"#,
        r#""tools":[{"type":"web_search","max_uses":"2"}],"#,
        r#""tools":[{"type":"mcp","max_uses":2}],"#,
        r#""tools":[{"type":"code_interpreter"}],"max_tool_calls":2,"#,
        r#""tools":[{"type":"function","type":"web_search"}],"#,
        r#""tools":[{"type":5,"name":"f"}],"#,
        r#""tools":[{"google_search":{}}],"#,
        r#""plugins":[{}],"max_tool_calls":1,"#,
        r#""web_search_options":{},"max_tool_calls":"1","#,
    ] {
        assert!(is_unbounded(&chat(member), &price, info.as_ref()), "{member}");
    }
}

#[test]
fn searches_with_a_maximum_read_the_window_again_each_time_and_cost_their_fees() {
    let (price, info) = price_of(
        &json!({"input": 3, "output": 10}),
        &json!({"search": 5}),
        &json!({"context_tokens": 1000}),
    );
    for (member, searches) in [
        (r#""tools":[{"type":"web_search_20250305","max_uses":2}],"#, 2),
        (
            r#""tools":[{"type":"web_search","max_uses":2},{"type":"web_search","max_uses":3}],"#,
            5,
        ),
        (r#""web_search_options":{},"max_tool_calls":4,"#, 4),
        (r#""tools":[{"type":"web_search","max_uses":9}],"max_tool_calls":1,"#, 1),
    ] {
        let facts = chat(member);
        let nusd = bound_at(&facts, &price, info.as_ref(), "v").input_nusd();
        assert_eq!(nusd, Some(WINDOW * IN * (1 + searches) + 5 * searches), "{member}");
        assert!(is_unbounded(&facts, &price, None), "without a window: {member}");
        assert!(is_unbounded(&facts, &flat(), info.as_ref()), "without a fee: {member}");
    }
    let none = chat(r#""tools":[{"type":"web_search","max_uses":0}],"#);
    assert!(bound_at(&none, &flat(), None, "v").input_nusd() < Some(WINDOW * IN * 2));
}

#[test]
fn a_model_that_searches_by_itself_or_stands_for_others_has_no_bound() {
    let models = include_bytes!("../../../modelux/pricing/data/models.json");
    let models = ModelCatalogue::from_json(models).unwrap();
    for name in ["gpt-4o-search-preview", "gpt-4o-mini-search-preview-2027-01-01", "x:online"] {
        let info = models.info("openai", name, None);
        assert!(is_unbounded(&chat(""), &flat(), info.as_ref()), "{name}");
    }
    assert!(!is_unbounded(&chat(""), &flat(), models.info("openai", "gpt-4o", None).as_ref()));
    let others = chat(r#""models":["a","b"],"#);
    assert!(is_unbounded(&others, &flat(), Some(&window(WINDOW))));
    assert!(!is_unbounded(&chat(r#""models":[],"#), &flat(), None));
}

// --- output ------------------------------------------------------------------------------------

#[test]
fn each_answer_may_use_the_whole_limit() {
    let at = |facts: &Facts| {
        let bound = bound_at(facts, &flat(), None, "v");
        bound.at(Some(100)).unwrap_or(0) - bound.input_nusd().unwrap_or(0)
    };
    assert_eq!(at(&chat("")), 100 * OUT);
    assert_eq!(at(&chat(r#""n":3,"#)), 300 * OUT);
    assert_eq!(at(&chat(r#""n":3,"best_of":5,"#)), 500 * OUT);
    assert_eq!(at(&chat(r#""n":0,"#)), 100 * OUT);
    assert_eq!(at(&chat(r#""n":-1,"#)), 100 * OUT);
    let prediction = r#"{"type":"content","content":"xyz"}"#;
    let facts = chat(&format!(r#""n":2,"prediction":{prediction},"#));
    assert_eq!(at(&facts), (200 + 2 * prediction.len() as u64) * OUT);
}

#[test]
fn each_prompt_of_a_completion_has_its_answers() {
    for (prompt, prompts) in [
        (r#""x""#, 1),
        (r#"["x","y"]"#, 2),
        ("[1,2,3]", 1),
        ("[[1,2],[3],[4]]", 3),
        ("[]", 1),
        ("null", 1),
    ] {
        let facts = completion(&format!(r#""prompt":{prompt},"n":2"#));
        assert_eq!(facts.prompts, prompts, "{prompt}");
        let result = bound(&facts, Shape::Completions, Some(&flat()), None, "v", None);
        let output = result
            .map(|bound| bound.at(Some(10)).unwrap_or(0) - bound.input_nusd().unwrap_or(0));
        assert_eq!(output, Ok(prompts * 2 * 10 * OUT), "{prompt}");
    }
    assert_eq!(completion(r#""prompt":"x","prompt":["y","z"]"#).prompts, 3);
}

#[test]
fn embeddings_have_no_output_side_and_need_no_price_for_it() {
    let body = r#"{"model":"m","input":["a","b","c"],"n":5,"max_tokens":9}"#;
    let facts = facts_of(body, Shape::Embeddings);
    let (price, _) = price_of(&json!({"input": 3}), &json!({}), &json!({}));
    let result = bound(&facts, Shape::Embeddings, Some(&price), None, "v", None);
    let nusd = (body.len() as u64 + 3 * 16) * IN;
    assert_eq!(
        result.map(|bound| (bound.at(None), bound.at(Some(9)))),
        Ok((Some(nusd), Some(nusd)))
    );
    let chat = bound(&chat(""), Shape::Chat, Some(&price), None, "v", None);
    assert_eq!(chat, Err(BoundFault::NotPriced), "an answer has tokens without a price");
    assert_eq!(limit_of(&facts, Shape::Embeddings, None, "v", &leaf()), None);
}

// --- prices ------------------------------------------------------------------------------------

#[test]
fn without_a_price_there_is_no_bound_whatever_a_target_says() {
    let result = bound(&chat(""), Shape::Chat, None, None, "openai", Some(5));
    assert_eq!(result, Err(BoundFault::NotPriced));
}

#[test]
fn a_stated_price_of_zero_is_a_bound_of_zero() {
    let facts = chat(r#""tools":[{"type":"mcp"}],"previous_response_id":"r","models":["a"],"#);
    for price in [Price::free(), Price::flat(0, 0, Some(0), None, 0)] {
        let bound = bound(&facts, Shape::Chat, Some(&price), None, "vllm", None);
        assert_eq!(bound.map(|bound| bound.at(Some(u64::MAX))), Ok(Some(0)));
    }
    // What the catalogue calls free is so for tokens of that model only.
    let (free, _) = price_of(&json!({"input": 0, "output": 0}), &json!({}), &json!({}));
    assert!(is_unbounded(&facts, &free, None));
}

#[test]
fn input_costs_the_dearest_that_the_cache_may_make_of_it() {
    let facts = chat("");
    let tokens = facts.text_bytes + AROUND;
    let (price, _) = price_of(
        &json!({"input": 3, "cached": 1, "cache_write": 4, "cache_write_1h": 6, "output": 10}),
        &json!({}),
        &json!({}),
    );
    let input = |shape, vendor| {
        bound(&facts, shape, Some(&price), None, vendor, None).map(|bound| bound.input_nusd())
    };
    assert_eq!(input(Shape::Chat, "v"), Ok(Some(tokens * 6 + 3)));
    assert_eq!(input(Shape::Chat, "anthropic"), Ok(Some(tokens * 3 + 3)));
    assert_eq!(input(Shape::Completions, "v"), Ok(Some(tokens * 3 + 3)));
}

#[test]
fn a_long_context_price_counts_where_the_bound_reaches_it() {
    let (price, _) = price_of(
        &json!({"input": 3, "output": 10}),
        &json!({"tiers": [{"over": 200, "rates": {"input": 5, "output": 20}},
                     {"over": 400, "rates": {"input": 6, "output": 15}}]}),
        &json!({}),
    );
    let of = |bytes: usize| {
        let mut facts = chat("");
        facts.text_bytes = bytes as u64;
        let bound = bound_at(&facts, &price, None, "v");
        let input = bound.input_nusd().unwrap_or(0);
        (input, bound.at(Some(1)).unwrap_or(0) - input)
    };
    assert_eq!(of(168), (200 * 3, 10));
    assert_eq!(of(169), (201 * 5, 20));
    // The dearest output of all that can be reached, even where a longer prompt makes it cheaper.
    assert_eq!(of(369), (401 * 6, 20));
    let capped = ModelInfo { context_tokens: Some(200), ..ModelInfo::default() };
    let mut facts = chat("");
    facts.text_bytes = 5000;
    assert_eq!(bound_at(&facts, &price, Some(&capped), "v").input_nusd(), Some(200 * 3));
}

#[test]
fn every_service_tier_counts_unless_the_body_pins_one() {
    let (price, _) = price_of(
        &json!({"input": 100, "output": 1000}),
        &json!({}),
        &json!({"service_tiers": {"flex": 500, "priority": [2000,1500,3000], "fast": 6000, "speed": 7000}}),
    );
    let of = |members: &str| {
        let mut facts = chat(members);
        facts.text_bytes = 68;
        let bound = bound_at(&facts, &price, None, "v");
        let input = bound.input_nusd().unwrap_or(0);
        (input / 100, (bound.at(Some(1)).unwrap_or(0) - input) / 1000)
    };
    for any in
        ["", r#""service_tier":"auto","#, r#""service_tier":null,"#, r#""service_tier":5,"#]
    {
        assert_eq!(of(any), (600, 6), "{any}");
    }
    assert_eq!(of(r#""service_tier":"ultrafast","#), (600, 6));
    for standard in ["default", "standard", "standard_only", "on_demand"] {
        assert_eq!(of(&format!(r#""service_tier":"{standard}","#)), (100, 1), "{standard}");
    }
    assert_eq!(of(r#""service_tier":"flex","#), (100, 1), "it may be served as standard");
    assert_eq!(of(r#""service_tier":"priority","#), (200, 3));
    assert_eq!(of(r#""service_tier":"fast","#), (200, 3));
    assert_eq!(of(r#""service_tier":"default","speed":"fast","#), (700, 7));
    assert_eq!(of(r#""service_tier":"default","speed":null,"#), (100, 1));
    // A price that the operator states has no tiers.
    let flat = bound_at(&chat(""), &flat(), None, "v");
    assert_eq!(flat.at(Some(1)).unwrap() - flat.input_nusd().unwrap(), OUT);
}

#[test]
fn a_region_may_be_dearer_unless_the_body_says_that_any_will_do() {
    let (price, _) = price_of(
        &json!({"input": 100, "output": 1000}),
        &json!({}),
        &json!({"region_permille": 1100}),
    );
    let of = |members: &str| {
        let bound = bound_at(&chat(members), &price, None, "v");
        bound.at(Some(1)).unwrap_or(0) - bound.input_nusd().unwrap_or(0)
    };
    assert_eq!(of(""), 1100);
    assert_eq!(of(r#""inference_geo":"us","#), 1100);
    assert_eq!(of(r#""inference_geo":"global","#), 1000);
}

#[test]
fn media_in_the_answer_count_where_they_may_come() {
    let (price, _) = price_of(
        &json!({"input": 3, "output": 10, "reasoning": 12, "audio_output": 80, "image_output": 30}),
        &json!({}),
        &json!({}),
    );
    let of = |members: &str, vendor: &str| {
        let bound = bound_at(&chat(members), &price, None, vendor);
        bound.at(Some(1)).unwrap_or(0) - bound.input_nusd().unwrap_or(0)
    };
    assert_eq!(of("", "openai"), 12);
    assert_eq!(of(r#""modalities":["text"],"#, "openai"), 12);
    assert_eq!(of(r#""modalities":["text","audio"],"#, "openai"), 80);
    assert_eq!(of(r#""audio":{"voice":"x"},"#, "openai"), 80);
    assert_eq!(of("", "google"), 80);
}

#[test]
fn the_fee_of_a_request_is_held() {
    let price = Price::flat(IN * MTOK, OUT * MTOK, None, None, 7);
    let facts = chat("");
    let nusd = bound_at(&facts, &price, None, "v").input_nusd();
    assert_eq!(nusd, Some((facts.text_bytes + AROUND) * IN + 7));
}

#[test]
fn what_cannot_be_counted_has_no_bound() {
    for price in [
        Price::flat(u64::MAX, 1, None, None, 0),
        Price::flat(1, 1, None, None, u64::MAX),
        Price::flat(1 << 53, 1, None, None, 0),
    ] {
        let mut facts = chat("");
        facts.text_bytes = u64::MAX;
        facts.images = u64::MAX;
        assert!(is_unbounded(&facts, &price, None));
    }
    let many = chat(&format!(r#""n":{0},"best_of":{0},"prediction":"xx","#, u64::MAX));
    assert!(is_unbounded(&many, &flat(), None));
}

#[test]
fn a_count_takes_the_place_of_bytes_where_it_is_less() {
    let facts = part(
        r#"{"type":"text","text":"words"},{"type":"image_url","image_url":{"url":"https://x.test/"}}"#,
    );
    let info = ModelInfo { image_tokens_max: Some(50), ..ModelInfo::default() };
    let counted = |tokens| {
        bound_by_count(&facts, Shape::Chat, &flat(), Some(&info), "v", tokens)
            .map(|bound| bound.input_nusd())
    };
    assert_eq!(counted(9), Ok(Some((9 + 50) * IN)));
    assert_eq!(counted(u64::MAX), Ok(Some((facts.text_bytes + AROUND + 50) * IN)));
}

#[test]
fn a_repeated_key_that_decides_money_is_refused() {
    for member in [
        r#""service_tier":"default","service_tier":"priority""#,
        r#""inference_geo":"global","inference_geo":"us""#,
        r#""max_tool_calls":1,"max_tool_calls":9"#,
        r#""max_tokens":1,"max\u005ftokens":9"#,
        r#""n":1,"n":2"#,
    ] {
        let body = format!(r#"{{"model":"m",{member}}}"#);
        let result = scan(body.as_bytes(), Shape::Chat);
        assert!(matches!(result, Err(ScanFault::DuplicateKey(_))), "{member}: {result:?}");
    }
}

// --- the output limit --------------------------------------------------------------------------

const DEFAULTS: LimitDefaults =
    LimitDefaults { default_output_tokens: 16_384, min_output_tokens: 64 };

fn leaf() -> Leaf {
    Flat::direct(0, "m", "m").leaves.remove(0)
}

fn leaf_with(set: impl Fn(&mut Leaf)) -> Leaf {
    let mut leaf = leaf();
    set(&mut leaf);
    leaf
}

fn limit_of(
    facts: &Facts,
    shape: Shape,
    max: Option<u64>,
    vendor: &str,
    leaf: &Leaf,
) -> Option<OutputLimit> {
    let info = ModelInfo { max_output_tokens: max, ..ModelInfo::default() };
    output_limit(facts, shape, Some(&info), vendor, leaf, DEFAULTS)
}

/// The limit, the least, and whether one has to be sent.
fn figures(members: &str, max: Option<u64>, leaf: &Leaf) -> (u64, u64, bool) {
    let limit = limit_of(&chat(members), Shape::Chat, max, "openai", leaf);
    limit.map_or((0, 0, false), |limit| (limit.limit, limit.least, limit.must_send))
}

#[test]
fn where_the_caller_set_no_limit_the_least_that_anyone_states_is_sent() {
    let plain = leaf();
    assert_eq!(figures("", None, &plain), (16_384, 64, true));
    assert_eq!(figures("", Some(4096), &plain), (4096, 64, true));
    assert_eq!(figures(r#""max_tokens":null,"#, Some(50_000), &plain), (16_384, 64, true));
    assert_eq!(figures(r#""max_tokens":-1,"#, Some(50_000), &plain), (16_384, 64, true));
    let strict = leaf_with(|leaf| leaf.max_output_tokens = Some(500));
    assert_eq!(figures("", Some(4096), &strict), (500, 64, true));
    let chosen = leaf_with(|leaf| {
        leaf.default_output_tokens = Some(2000);
        leaf.min_output_tokens = Some(3000);
    });
    assert_eq!(figures("", Some(4096), &chosen), (2000, 2000, true), "never above the limit");
}

#[test]
fn a_callers_limit_counts_up_to_the_models_maximum_whatever_the_target_says() {
    let strict = leaf_with(|leaf| {
        leaf.max_output_tokens = Some(10);
        leaf.default_output_tokens = Some(5);
    });
    assert_eq!(figures(r#""max_tokens":100,"#, Some(4096), &strict), (100, 100, false));
    assert_eq!(figures(r#""max_tokens":9999,"#, Some(4096), &strict), (4096, 4096, false));
    assert_eq!(figures(r#""max_tokens":9999,"#, None, &strict), (9999, 9999, false));
    let both = r#""max_tokens":5,"max_completion_tokens":70,"#;
    assert_eq!(figures(both, None, &strict), (70, 70, false), "the larger of both");
}

#[test]
fn how_far_a_limit_may_be_lowered_is_the_routes_word() {
    let fit = |fit| leaf_with(|leaf| leaf.fit = fit);
    let set = r#""max_tokens":1000,"#;
    assert_eq!(figures(set, None, &fit(Fit::Auto)).1, 1000);
    assert_eq!(figures(set, None, &fit(Fit::Always)).1, 64);
    assert_eq!(figures(set, None, &fit(Fit::Never)).1, 1000);
    assert_eq!(figures("", None, &fit(Fit::Never)).1, 16_384);
    assert_eq!(figures(r#""max_tokens":10,"#, None, &fit(Fit::Always)).1, 10);
}

#[test]
fn a_limit_is_never_lowered_below_what_thinking_needs() {
    for member in [
        r#""thinking":{"type":"enabled","budget_tokens":2000},"#,
        r#""reasoning":{"max_tokens":2000},"#,
        r#""thinking_budget":2000,"#,
        r#""extra_body":{"google":{"thinking_config":{"thinking_budget":2000}}},"#,
    ] {
        assert_eq!(figures(member, None, &leaf()).1, 3024, "{member}");
        assert_eq!(figures(member, Some(2500), &leaf()), (2500, 2500, true), "{member}");
    }
    assert_eq!(figures(r#""reasoning":{"effort":"low"},"#, None, &leaf()).1, 64);
    assert_eq!(figures(r#""thinking":{"budget_tokens":-1},"#, None, &leaf()).1, 64);
}

/// What goes upstream with a limit of 7 where one has to be sent.
fn sent(body: &str, shape: Shape, vendor: &str) -> String {
    let facts = facts_of(body, shape);
    let Some(limit) = limit_of(&facts, shape, Some(9), vendor, &leaf()) else {
        return body.to_owned();
    };
    let output_limit = limit.must_send.then_some((limit.limit, limit.key));
    let mut out = Vec::new();
    patch(body.as_bytes(), &facts, &Edit { output_limit, ..Edit::default() }, &mut out);
    String::from_utf8_lossy(&out).into_owned()
}

#[test]
fn a_limit_is_added_in_the_spelling_that_the_model_takes() {
    let body = r#"{"model":"m"}"#;
    let added = |key: &str| format!(r#"{{"{key}":9,"model":"m"}}"#);
    assert_eq!(sent(body, Shape::Chat, "openai"), added("max_completion_tokens"));
    assert_eq!(sent(body, Shape::Completions, "openai"), added("max_tokens"));
    for vendor in ["anthropic", "google", "mistral", "vllm", "ollama", "xai", "openrouter"] {
        assert_eq!(sent(body, Shape::Chat, vendor), added("max_tokens"), "{vendor}");
    }
}

#[test]
fn a_spelling_that_stands_there_is_set_where_it_stands() {
    let openai = |body: &str| sent(body, Shape::Chat, "openai");
    let vllm = |body: &str| sent(body, Shape::Chat, "vllm");
    // A limit that the provider reads is left alone.
    for body in
        [r#"{"model":"m","max_tokens":5}"#, r#"{"max_completion_tokens":5,"model":"m"}"#]
    {
        assert_eq!(openai(body), body);
    }
    assert_eq!(openai(r#"{"max_tokens": -1,"model":"m"}"#), r#"{"max_tokens": 9,"model":"m"}"#);
    assert_eq!(
        openai(r#"{"max_tokens":null,"model":"m"}"#),
        r#"{"max_completion_tokens":9,"max_tokens":null,"model":"m"}"#
    );
    assert_eq!(
        openai(r#"{"max_completion_tokens": null ,"model":"m"}"#),
        r#"{"max_completion_tokens": 9 ,"model":"m"}"#
    );
    // One that it may not read is said again in the spelling that it does, with the same number.
    assert_eq!(
        vllm(r#"{"max_completion_tokens":5,"model":"m"}"#),
        r#"{"max_tokens":5,"max_completion_tokens":5,"model":"m"}"#
    );
    assert_eq!(
        vllm(r#"{"max_completion_tokens":5,"model":"m","max_tokens":-1}"#),
        r#"{"max_completion_tokens":5,"model":"m","max_tokens":5}"#
    );
    // Ollama reads 0 as none.
    let zero = r#"{"model":"m","max_tokens":0}"#;
    assert_eq!(sent(zero, Shape::Chat, "ollama"), r#"{"model":"m","max_tokens":9}"#);
    assert_eq!(vllm(zero), zero);
}

#[test]
fn a_lowered_limit_replaces_both_spellings_and_leaves_every_other_byte() {
    let body = br#"{ "mlx:trace":true, "max_tokens" : 50, "stream":true,"model":"m","max_completion_tokens":60}"#;
    let facts = scan(body, Shape::Chat).unwrap();
    let edit = Edit {
        model: Some("x"),
        include_usage: true,
        output_limit: Some((7, LimitKey::MaxTokens)),
    };
    let mut out = Vec::new();
    patch(body, &facts, &edit, &mut out);
    assert_eq!(
        String::from_utf8_lossy(&out),
        r#"{"stream_options":{"include_usage":true}, "max_tokens" : 7, "stream":true,"model":"x","max_completion_tokens":7}"#
    );
}

// --- no charge passes its bound ----------------------------------------------------------------

fn any_rate() -> impl Strategy<Value = Option<u64>> {
    prop_oneof![Just(None), (0..1_u64 << 34).prop_map(Some), (0..2000_u64).prop_map(Some)]
}

fn any_rates() -> impl Strategy<Value = Value> {
    const OWN: [&str; 8] = [
        "cached",
        "cache_write",
        "cache_write_1h",
        "audio_input",
        "image_input",
        "reasoning",
        "audio_output",
        "image_output",
    ];
    (0..1_u64 << 34, 0..1_u64 << 34, prop::array::uniform8(any_rate())).prop_map(
        |(input, output, own)| {
            let mut rates = json!({"input": input, "output": output});
            for (name, rate) in OWN.into_iter().zip(own) {
                rates[name] = json!(rate);
            }
            rates
        },
    )
}

fn any_price() -> impl Strategy<Value = (Price, ModelInfo)> {
    let factor = || 100..7000_u64;
    let context = prop_oneof![Just(None), (1..5000_u64).prop_map(Some)];
    (any_rates(), any_rates(), 1..3000_u64, 0..100_u64, [factor(), factor(), factor()], context)
        .prop_map(|(base, tier, over, fee, [flex, priority, fast], context)| {
            let tiers = json!([{"over": over, "rates": tier}]);
            let price = json!({"rates": base, "tiers": tiers, "request": fee});
            let service_tiers =
                json!({"flex": flex, "priority": [priority, 900, fast], "fast": fast});
            let info = json!({"context_tokens": context, "service_tiers": service_tiers});
            let (price, info) = compiled(&price, &info);
            (price, info.unwrap_or_default())
        })
}

/// Split a number into as many parts.
fn split<const N: usize>(whole: u64, weights: [u64; N]) -> [u64; N] {
    let sum: u64 = weights.iter().sum::<u64>().max(1);
    let mut parts = weights.map(|weight| whole * weight / sum);
    parts[0] += whole - parts.iter().sum::<u64>();
    parts
}

proptest! {
    #[test]
    fn no_charge_passes_the_bound(
        (price, info) in any_price(),
        tier in prop_oneof![
            Just(None),
            Just(Some(ServiceTier::Standard)),
            Just(Some(ServiceTier::Flex)),
            Just(Some(ServiceTier::Priority)),
            Just(Some(ServiceTier::Fast)),
            Just(Some(ServiceTier::Unknown)),
        ],
        audio in 0..400_usize,
        images in 0..3_usize,
        text in 0..3000_usize,
        n in 1..4_u64,
        limit in 0..5000_u64,
        input_weights in prop::array::uniform4(0..5_u64),
        output_weights in prop::array::uniform4(0..5_u64),
        used in prop_oneof![Just(100), 0..=100_u64],
    ) {
        let picture = r#",{"type":"image_url","image_url":{"url":"data:image/png;base64,A"}}"#;
        let body = format!(
            r#"{{"model":"m","n":{n},"messages":[{{"content":[{{"type":"text","text":"{}"}},
                {{"type":"input_audio","input_audio":{{"data":"{}"}}}}{}]}}]}}"#,
            "x".repeat(text), "A".repeat(audio), picture.repeat(images),
        );
        let facts = facts_of(&body, Shape::Chat);
        let info = ModelInfo { image_tokens_max: Some(300), ..info };
        // As many tokens as are promised, of kinds that the body holds.
        let room = info.context_tokens.unwrap_or(u64::MAX);
        let audio_tokens = (facts.audio_bytes * used / 100).min(room);
        let image_tokens = (facts.images * 300 * used / 100).min(room - audio_tokens);
        let text_tokens =
            ((facts.text_bytes + AROUND) * used / 100).min(room - audio_tokens - image_tokens);
        let [input, cached, written, written_1h] = split(text_tokens, input_weights);
        let answered = limit * n * used / 100;
        let [output, reasoning, spoken, painted] = split(answered, output_weights);
        let usage = Usage {
            input_tokens: input,
            cached_tokens: cached,
            cache_write_tokens: written,
            cache_write_1h_tokens: written_1h,
            audio_input_tokens: audio_tokens,
            image_input_tokens: image_tokens,
            output_tokens: output + painted,
            reasoning_tokens: reasoning,
            audio_output_tokens: spoken,
            image_output_tokens: painted,
            service_tier: tier,
            ..Usage::default()
        };
        let charge = cost(&usage, &price).map(|cost| cost.input_nusd + cost.output_nusd);
        let most = bound_at(&facts, &price, Some(&info), "v").at(Some(limit));
        prop_assert!(charge <= most, "{charge:?} > {most:?}");
        prop_assert!(charge.is_some());
    }

    #[test]
    fn a_bound_grows_with_the_limit_and_tells_which_one_fits(
        (price, info) in any_price(),
        limits in (0..1_u64 << 40, 0..1_u64 << 40),
        factor in 1000..9000_u64,
        left in 0..1_u64 << 53,
    ) {
        let bound = bound_at(&chat(""), &price, Some(&info), "v").times(factor);
        let (low, high) = (limits.0.min(limits.1), limits.0.max(limits.1));
        let at = |limit| bound.at(Some(limit)).unwrap_or(u64::MAX);
        prop_assert!(at(low) <= at(high));
        let fits = bound.limit_for(left);
        prop_assert!(fits == 0 || at(fits) <= left);
        prop_assert!(fits == u64::MAX || at(fits + 1) > left);
    }
}
