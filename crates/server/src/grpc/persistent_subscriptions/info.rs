//! What a group tells of itself (protocol 6.6).

use std::time::Duration;

use annals_proto::event_store::client::persistent_subscriptions::SubscriptionInfo;
use annals_proto::event_store::client::persistent_subscriptions::subscription_info::{ConnectionInfo, Measurement};

use crate::groups::{ConsumerInfo, Info, written};

/// The answer.
pub(super) fn told(info: &Info) -> SubscriptionInfo {
    let definition = &info.definition;
    let (name, settings) = (&definition.name, &definition.settings);
    let place = |at: Option<u64>| at.map(|at| written(name.is_all(), at)).unwrap_or_default();
    let mut status = if info.live { "Live" } else { "Behind" }.to_owned();
    if info.replaying {
        status.push_str(", ReplayingParkedMessages");
    }
    SubscriptionInfo {
        event_source: name.source.clone(),
        group_name: name.group.clone(),
        status,
        connections: info.consumers.iter().map(connection).collect(),
        average_per_second: narrow(info.per_second),
        total_items: wide(info.delivered),
        count_since_last_measurement: wide(info.in_last),
        last_checkpointed_event_position: place(info.checkpoint),
        last_known_event_position: place(info.known),
        resolve_link_tos: settings.resolve_links,
        start_from: match (definition.from_end, name.is_all(), definition.after) {
            (true, false, _) => "-1".to_owned(),
            (true, true, _) => "C:-1/P:-1".to_owned(),
            (false, is_all, after) => written(is_all, after.map_or(0, |after| after + 1)),
        },
        message_timeout_milliseconds: millis(settings.message_timeout),
        extra_statistics: settings.extra_statistics,
        max_retry_count: narrow(u64::from(settings.max_retries)),
        live_buffer_size: narrow(settings.live_buffer as u64),
        buffer_size: narrow(settings.history_buffer as u64),
        read_batch_size: narrow(settings.read_batch as u64),
        check_point_after_milliseconds: settings.checkpoint_after.map_or(0, millis),
        min_check_point_count: narrow(settings.min_checkpoint),
        max_check_point_count: narrow(settings.max_checkpoint),
        read_buffer_count: narrow(info.waiting as u64),
        live_buffer_count: 0,
        retry_buffer_count: narrow(info.retried as u64),
        total_in_flight_messages: narrow(info.in_flight as u64),
        outstanding_messages_count: narrow(info.in_flight as u64),
        named_consumer_strategy: settings.strategy.name().to_owned(),
        max_subscriber_count: narrow(settings.max_consumers.unwrap_or(0) as u64),
        parked_message_count: wide(info.parked),
    }
}

fn connection(consumer: &ConsumerInfo) -> ConnectionInfo {
    let or = |text: &str, other: &str| if text.is_empty() { other.to_owned() } else { text.to_owned() };
    ConnectionInfo {
        from: String::new(),
        username: or(&consumer.who.user, "anonymous"),
        average_items_per_second: narrow(consumer.per_second),
        total_items: wide(consumer.delivered),
        count_since_last_measurement: wide(consumer.in_last),
        observed_measurements: consumer.measured.iter().map(measurement).collect(),
        available_slots: narrow(consumer.free as u64),
        in_flight_messages: narrow(consumer.in_flight as u64),
        connection_name: or(&consumer.who.connection, "<unknown>"),
    }
}

fn measurement((key, value): &(&'static str, u64)) -> Measurement {
    Measurement { key: (*key).to_owned(), value: wide(*value) }
}

fn narrow(number: u64) -> i32 {
    i32::try_from(number).unwrap_or(i32::MAX)
}

fn wide(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn millis(time: Duration) -> i32 {
    i32::try_from(time.as_millis()).unwrap_or(i32::MAX)
}
