//! The upper bound of an attempt: every row of its table, and that no charge passes it.

use modelux_core::bound::{BoundFault, bound};
use modelux_core::models::ModelInfo;
use modelux_core::pricing::Price;
use modelux_core::scan::{Facts, Shape, scan};

/// Nano-USD: a million tokens cost a million times that, so that one costs just that.
const IN: u64 = 3;
const OUT: u64 = 10;
const MTOK: u64 = 1_000_000;

fn facts_of(body: &str, shape: Shape) -> Facts {
    match scan(body.as_bytes(), shape) {
        Ok(facts) => facts,
        Err(fault) => panic!("{body}: {fault:?}"),
    }
}

fn chat(members: &str) -> Facts {
    facts_of(&format!(r#"{{"model":"m"{members}}}"#), Shape::Chat)
}

/// A message whose one part is that.
fn part(part: &str) -> Facts {
    chat(&format!(r#","messages":[{{"role":"user","content":[{part}]}}]"#))
}

fn flat() -> Price {
    Price::flat(IN * MTOK, OUT * MTOK, None, None, 0)
}

/// What the input side costs at most at a flat price, in tokens.
fn input_tokens(facts: &Facts, shape: Shape, model: Option<&ModelInfo>, vendor: &str) -> u64 {
    match bound(facts, shape, Some(&flat()), model, vendor, None) {
        Ok(bound) => bound.input_nusd().map_or(0, |nusd| {
            assert_eq!(nusd % IN, 0);
            nusd / IN
        }),
        Err(fault) => panic!("{fault:?}"),
    }
}

fn chat_tokens(facts: &Facts) -> u64 {
    input_tokens(facts, Shape::Chat, None, "openai")
}

#[test]
fn text_counts_a_token_a_byte_and_sixteen_a_message() {
    let body = r#"{"model":"m","messages":[{"role":"user","content":"hi"}]}"#;
    let facts = facts_of(body, Shape::Chat);
    assert_eq!(chat_tokens(&facts), body.len() as u64 + 16 + 16);
    let with_tools = r#"{"model":"m","tools":[{"type":"function","function":{"name":"f"}}]}"#;
    let facts = facts_of(with_tools, Shape::Chat);
    assert_eq!(chat_tokens(&facts), with_tools.len() as u64 + 16 + 1024);
}

#[test]
fn an_image_counts_the_models_maximum_and_else_the_largest_that_we_assume() {
    let facts = part(
        r#"{"type":"image_url","image_url":{"url":"data:image/png;base64,AAAA"}},
           {"type":"image_url","image_url":{"url":"https://x.test/a.png"}}"#,
    );
    assert_eq!(facts.images, 2);
    let text = facts.text_bytes + 32;
    assert_eq!(chat_tokens(&facts), text + 2 * 65_536);
    let model = ModelInfo { image_tokens_max: Some(1445), ..ModelInfo::default() };
    assert_eq!(input_tokens(&facts, Shape::Chat, Some(&model), "openai"), text + 2 * 1445);
}

#[test]
fn without_a_price_there_is_no_bound_whatever_a_target_says() {
    let facts = chat("");
    let result = bound(&facts, Shape::Chat, None, None, "openai", Some(5));
    assert_eq!(result, Err(BoundFault::NotPriced));
}

#[test]
fn a_price_of_zero_is_a_bound_of_zero() {
    let facts = chat(r#","tools":[{"type":"mcp"}],"previous_response_id":"r""#);
    let bound = bound(&facts, Shape::Chat, Some(&Price::free()), None, "vllm", None).unwrap();
    assert_eq!(bound.at(Some(u64::MAX)), Some(0));
}
