//! The JSON walk against another reader, and patched bodies against their meaning.

#![expect(clippy::unwrap_used, reason = "a test that unwraps names the line that failed")]

use modelux_core::json::Cursor;
use modelux_core::patch::{Edit, patch};
use modelux_core::scan::{Facts, ScanFault, Shape, scan};
use proptest::prelude::*;
use serde::de::IgnoredAny;

fn is_json(text: &[u8]) -> bool {
    let mut cursor = Cursor::new(text);
    cursor.skip().is_ok() && cursor.end().is_ok()
}

/// Bytes that are nearly JSON: random ones would almost never be.
fn texts() -> impl Strategy<Value = String> {
    let tokens = prop::sample::select(vec![
        "{",
        "}",
        "[",
        "]",
        ",",
        ":",
        "\"",
        "\\",
        "\\u00e9",
        "\\ud83d",
        "\\n",
        "null",
        "true",
        "false",
        "0",
        "1",
        "-",
        ".",
        "e",
        "E+",
        " ",
        "\n",
        "\t",
        "\"a\"",
        "\"model\"",
        "\"\"",
        "{}",
        "[]",
        "\"k\":",
        "1.5e3",
        "\u{e9}",
        "\u{1}",
        "\"model\":\"m\"",
        "\"mlx:x\":1",
    ]);
    prop::collection::vec(tokens, 0..14).prop_map(|tokens| tokens.concat())
}

fn values() -> impl Strategy<Value = serde_json::Value> {
    let leaf = prop_oneof![
        Just(serde_json::Value::Null),
        any::<bool>().prop_map(Into::into),
        any::<i64>().prop_map(Into::into),
        // Eighths are exact: the other reader rounds the last digits of other fractions.
        any::<i32>().prop_map(|eighths| (f64::from(eighths) / 8.0).into()),
        ".{0,40}".prop_map(Into::into),
    ];
    leaf.prop_recursive(4, 32, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Into::into),
            prop::collection::hash_map(".{0,12}", inner, 0..4)
                .prop_map(|map| serde_json::Value::Object(map.into_iter().collect())),
        ]
    })
}

fn patched(body: &str, edit: &Edit<'_>) -> Result<(Facts, String), ScanFault> {
    let facts = scan(body.as_bytes(), Shape::Chat)?;
    let mut out = Vec::new();
    patch(body.as_bytes(), &facts, edit, &mut out);
    Ok((facts, String::from_utf8(out).unwrap()))
}

proptest! {
    #[test]
    fn a_text_is_json_where_another_reader_says_so(text in texts()) {
        let is_expected = serde_json::from_str::<IgnoredAny>(&text).is_ok();
        prop_assert_eq!(is_json(text.as_bytes()), is_expected, "{}", text);
    }

    #[test]
    fn what_another_writer_writes_is_json(value in values()) {
        prop_assert!(is_json(value.to_string().as_bytes()));
        prop_assert!(is_json(serde_json::to_string_pretty(&value).unwrap().as_bytes()));
    }

    #[test]
    fn a_prefix_of_an_object_is_not_json(value in values(), end in 0.0..1.0_f64) {
        let text = serde_json::json!({ "a": value }).to_string();
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss,
            reason = "any place will do")]
        let end = (text.len() as f64 * end) as usize;
        prop_assert!(!is_json(&text.as_bytes()[..end]));
    }

    #[test]
    fn any_bytes_are_facts_or_a_fault(body in prop::collection::vec(any::<u8>(), 0..64)) {
        let _ = scan(&body, Shape::Chat);
    }

    #[test]
    fn a_string_means_what_another_reader_reads(text in ".{0,80}", spelling in 0..3) {
        let quoted = match spelling {
            0 => serde_json::to_string(&text).unwrap(),
            1 => {
                let escape = |out, unit| format!("{out}\\u{unit:04X}");
                text.encode_utf16().fold("\"".to_owned(), escape) + "\""
            }
            _ => {
                let mut out = Vec::new();
                modelux_core::patch::quote(&text, &mut out);
                String::from_utf8(out).unwrap()
            }
        };
        let mut cursor = Cursor::new(quoted.as_bytes());
        let read = cursor.string().unwrap();
        prop_assert!(read.is(&text));
        prop_assert_eq!(&*read.decode().unwrap(), &text);
        prop_assert_eq!(&*read.key_bytes(), text.as_bytes());
        prop_assert_eq!(serde_json::from_str::<String>(&quoted).unwrap(), text);
    }

    #[test]
    fn a_patched_body_is_the_same_value_but_for_our_changes(
        members in prop::collection::hash_map("(mlx:)?[a-z\"é]{0,5}", values(), 0..6),
        model in ".{0,20}",
        stream in any::<bool>(),
        include_usage in any::<bool>(),
        pretty in any::<bool>(),
    ) {
        let mut body: serde_json::Map<_, _> = members.into_iter().collect();
        body.insert("model".into(), "@fast".into());
        body.insert("stream".into(), stream.into());
        let body = serde_json::Value::Object(body);
        let text = if pretty {
            serde_json::to_string_pretty(&body).unwrap()
        } else {
            body.to_string()
        };
        let edit = Edit { model: Some(&model), include_usage, output_limit: None };
        let Ok((facts, after)) = patched(&text, &edit) else { return Ok(()) };
        prop_assert_eq!(facts.model, "@fast");

        let mut expected = body;
        let object = expected.as_object_mut().unwrap();
        object.retain(|key, _| !key.starts_with("mlx:"));
        object.insert("model".into(), model.into());
        if stream && include_usage {
            object.insert("stream_options".into(), serde_json::json!({ "include_usage": true }));
        }
        prop_assert_eq!(serde_json::from_str::<serde_json::Value>(&after).unwrap(), expected);
    }
}
