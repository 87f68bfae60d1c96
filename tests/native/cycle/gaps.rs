//! What somebody else does to the slot or to the publication between two cycles is noticed by the
//! next one, on the connection that is kept, and nothing else is taken for a gap.

use std::time::Duration;

use pg_change_feed::config::OnSlotLost;
use pg_change_feed::error::{Category, Error};
use pg_change_feed::polling::{Policy, Report, policy};
use pg_change_feed::state::{self, Discontinuity, Resumed, Resumption};

use crate::support::feed::{PATIENCE, TestFeed};
use crate::support::server::{Version, connect};

on_each_version!(
    a_slot_that_is_dropped_and_created_again_between_two_cycles_is_noticed,
    a_slot_that_somebody_advances_after_each_insert_loses_nothing_untold,
    a_slot_that_is_created_again_with_two_phase_or_another_plugin_is_refused,
    two_objects_that_find_the_same_gap_begin_one_epoch,
    a_table_that_leaves_the_publication_and_comes_back_is_a_gap,
    another_row_filter_or_column_list_is_a_gap,
    other_operations_of_the_publication_are_a_gap,
    a_table_that_is_added_or_dropped_is_no_gap,
    a_gap_of_the_publication_is_told_to_a_feed_that_was_away,
    a_publication_that_is_replaced_at_once_is_no_gap,
    a_database_without_the_newest_migration_is_read_as_before,
);

const ITEMS: &str = "CREATE TABLE items (id int PRIMARY KEY, note text)";

/// Resumes as an object does that may begin a new epoch.
async fn recover(feed: &TestFeed) -> Resumed {
    try_resume(feed, OnSlotLost::Recover).await.unwrap()
}

async fn try_resume(feed: &TestFeed, on_slot_lost: OnSlotLost) -> Result<Resumed, Error> {
    let mut connection = connect(feed.url()).await;
    let resumption = Resumption {
        slot: &feed.config.slot,
        publication: &feed.config.publication,
        last_known: None,
        publication_was_missing: false,
        on_slot_lost,
    };
    let resumed = state::resume(&mut connection, resumption).await;
    connection.close().await;
    resumed
}

async fn stored(feed: &TestFeed) -> String {
    let rows = "SELECT string_agg(data ->> 'id', ' ' ORDER BY id) FROM change_history";
    feed.value(rows).await
}

async fn drop_slot(feed: &TestFeed) {
    let slot = &feed.config.slot;
    feed.run(&format!("SELECT pg_drop_replication_slot('{slot}')"))
        .await;
}

async fn create_slot(feed: &TestFeed, plugin: &str, options: &str) {
    let slot = &feed.config.slot;
    let create =
        format!("SELECT pg_create_logical_replication_slot('{slot}', '{plugin}'{options})");
    feed.run(&create).await;
}

#[track_caller]
fn assert_recovers(error: &Error, code: &str) {
    assert_eq!((error.code(), policy(error)), (code, Policy::Recover));
}

async fn a_slot_that_is_dropped_and_created_again_between_two_cycles_is_noticed(version: Version) {
    let feed = TestFeed::create(version, ITEMS, "FOR TABLE items").await;
    let mut reader = feed.reader().await;
    feed.run("INSERT INTO items VALUES (1)").await;
    assert_eq!(reader.drain().await.unwrap(), 1);
    drop_slot(&feed).await;
    feed.run("INSERT INTO items VALUES (2)").await;
    create_slot(&feed, "pgoutput", "").await;
    feed.run("INSERT INTO items VALUES (3)").await;

    let error = reader.poll().await.unwrap_err();
    assert_recovers(&error, "slot_consumed_elsewhere");
    assert_eq!(stored(&feed).await, "1");
    drop(reader);
    let halted = try_resume(&feed, OnSlotLost::Halt).await.unwrap_err();
    assert_eq!(halted.code(), "slot_consumed_elsewhere");
    let resumed = recover(&feed).await;
    let cause = Some(Discontinuity::ConsumedElsewhere);
    assert_eq!(resumed.discontinuity, cause);
    feed.run("INSERT INTO items VALUES (4)").await;
    assert_eq!(feed.drain().await, 1);
    assert_eq!(stored(&feed).await, "1 4");
}

async fn a_slot_that_somebody_advances_after_each_insert_loses_nothing_untold(version: Version) {
    let feed = TestFeed::create(version, ITEMS, "FOR TABLE items").await;
    let somebody = feed.client().await;
    let slot = &feed.config.slot;
    let advance = format!("SELECT pg_replication_slot_advance('{slot}', pg_current_wal_lsn())");
    let mut reader = feed.reader().await;
    let (mut told, mut missing) = (0, 0);
    for id in 1..60 {
        let insert = format!("INSERT INTO items VALUES ({id})");
        somebody.batch_execute(&insert).await.unwrap();
        // The feed may be reading the slot.
        let consuming = async {
            let _ = somebody.batch_execute(&advance).await;
        };
        let (polled, ()) = tokio::join!(reader.poll(), consuming);
        let failed = match polled {
            // What was stored was read before somebody moved the slot beyond it.
            Ok(report) if report.advance_error.is_some() => true,
            Ok(_) => notices_or_is_busy(reader.poll().await),
            Err(error) => notices_or_is_busy(Err(error)),
        };
        if failed {
            drop(reader);
            reset_when_free(&feed, &mut told).await;
            reader = feed.reader().await;
        }
        let is_stored = format!("SELECT count(*) FROM change_history WHERE data ->> 'id' = '{id}'");
        if feed.value(&is_stored).await == "0" {
            missing += 1;
            assert!(told >= missing, "{id} is missing and nobody was told");
        }
    }
    println!("{missing} of 59 are missing, {told} epochs have begun");
}

/// Whether a poll failed, which it may do only for the gap, or because somebody moves the slot.
fn notices_or_is_busy(polled: Result<Report, Error>) -> bool {
    match polled {
        Ok(report) => report.advance_error.is_some(),
        Err(error) => {
            if error.category() != Category::SlotInUse {
                assert_recovers(&error, "slot_consumed_elsewhere");
            }
            true
        }
    }
}

/// Resumes once the session that was reading the slot has gone.
async fn reset_when_free(feed: &TestFeed, told: &mut i32) {
    let resuming = async {
        loop {
            match try_resume(feed, OnSlotLost::Recover).await {
                Ok(resumed) => return resumed,
                Err(error) => assert_eq!(error.category(), Category::SlotInUse, "{error:?}"),
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    let resumed = tokio::time::timeout(PATIENCE, resuming).await.unwrap();
    *told += i32::from(resumed.discontinuity.is_some());
}

async fn a_slot_that_is_created_again_with_two_phase_or_another_plugin_is_refused(
    version: Version,
) {
    let feed = TestFeed::create(version, ITEMS, "FOR TABLE items").await;
    for (plugin, options, what) in [
        ("pgoutput", ", false, true", "two_phase"),
        ("test_decoding", "", "another output plugin"),
    ] {
        let mut reader = feed.reader().await;
        drop_slot(&feed).await;
        create_slot(&feed, plugin, options).await;
        feed.run("INSERT INTO items VALUES (1); DELETE FROM items")
            .await;
        let error = reader.poll().await.unwrap_err();
        assert_eq!(error.code(), "slot_unusable", "{error:?}");
        assert!(error.to_string().contains(what), "{error}");
        assert_eq!(policy(&error), Policy::Halt);
        let remedy = error.remedy().unwrap_or_default();
        assert!(remedy.contains("pg_drop_replication_slot"), "{remedy}");
        drop(reader);
        let error = try_resume(&feed, OnSlotLost::Recover).await.unwrap_err();
        assert_eq!(error.code(), "slot_unusable", "it is left alone");
        drop_slot(&feed).await;
        recover(&feed).await;
    }
}

async fn two_objects_that_find_the_same_gap_begin_one_epoch(version: Version) {
    let feed = TestFeed::create(version, ITEMS, "FOR TABLE items").await;
    let epoch = "SELECT epoch FROM replication_checkpoint";
    let before: i32 = feed.value(epoch).await.parse().unwrap();
    drop_slot(&feed).await;
    feed.run("INSERT INTO items VALUES (1)").await;
    let all = futures_util::future::join_all((0..4).map(|_| recover(&feed))).await;
    let begun = all.iter().filter(|one| one.discontinuity.is_some()).count();
    assert_eq!(begun, 1);
    assert_eq!(feed.value(epoch).await, (before + 1).to_string());

    // A reader that looks between the new slot and the new checkpoint of another object.
    let mut reader = feed.reader().await;
    let other = feed.client().await;
    drop_slot(&feed).await;
    let slot = &feed.config.slot;
    let new_epoch = format!(
        "BEGIN; SELECT pg_advisory_xact_lock(8316547412953021); \
         SELECT pg_create_logical_replication_slot('{slot}', 'pgoutput'); \
         UPDATE replication_checkpoint SET epoch = epoch + 1, lsn = (SELECT confirmed_flush_lsn \
         FROM pg_replication_slots WHERE slot_name = '{slot}')"
    );
    other.batch_execute(&new_epoch).await.unwrap();
    feed.run("SELECT pg_logical_emit_message(false, 'x', 'x')")
        .await;
    let error = reader.poll().await.unwrap_err();
    assert_recovers(&error, "slot_consumed_elsewhere");
    let committing = async {
        tokio::time::sleep(Duration::from_millis(50)).await;
        other.batch_execute("COMMIT").await.unwrap();
    };
    let (resumed, ()) = tokio::join!(recover(&feed), committing);
    assert_eq!(resumed.discontinuity, None);
    assert_eq!(resumed.database.checkpoint.epoch, before + 2);
}

/// Runs each statement of `meanwhile`, in a transaction of its own, between two cycles. Returns the
/// error of the second.
async fn after(feed: &TestFeed, meanwhile: &str) -> Option<Error> {
    let mut reader = feed.reader().await;
    reader.drain().await.unwrap();
    for statement in meanwhile.split(';') {
        feed.run(statement).await;
    }
    reader.poll().await.err()
}

/// Checks that it is a gap, told once.
async fn assert_gap(feed: &TestFeed, meanwhile: &str) {
    let error = after(feed, meanwhile).await;
    let error = error.unwrap_or_else(|| panic!("{meanwhile}: nobody was told"));
    assert_recovers(&error, "publication_changed");
    let halted = try_resume(feed, OnSlotLost::Halt).await.unwrap_err();
    assert_eq!(halted.code(), "publication_changed");
    let cause = Some(Discontinuity::PublicationChanged);
    assert_eq!(recover(feed).await.discontinuity, cause, "{meanwhile}");
    assert_eq!(recover(feed).await.discontinuity, None, "{meanwhile}");
}

/// Checks that it is no gap, and that the feed goes on.
async fn assert_no_gap(feed: &TestFeed, meanwhile: &str) {
    if let Some(error) = after(feed, meanwhile).await {
        assert_recovers(&error, "publication_changed");
    }
    let halts = try_resume(feed, OnSlotLost::Halt).await;
    assert_eq!(halts.unwrap().discontinuity, None, "{meanwhile}");
    assert_eq!(after(feed, "SELECT").await.map(|error| error.code()), None);
}

const AWAY: &str = "ALTER PUBLICATION feed DROP TABLE items; INSERT INTO items VALUES (2);";

async fn a_table_that_leaves_the_publication_and_comes_back_is_a_gap(version: Version) {
    let feed = TestFeed::create(version, ITEMS, "FOR TABLE items").await;
    let back = format!("{AWAY} ALTER PUBLICATION feed ADD TABLE items");
    assert_gap(&feed, &back).await;
    // It is told when it leaves, and, since rows may be written until then, when it is back.
    feed.run("DELETE FROM items").await;
    assert_gap(&feed, AWAY).await;
    assert_gap(&feed, "ALTER PUBLICATION feed ADD TABLE items").await;
}

async fn another_row_filter_or_column_list_is_a_gap(version: Version) {
    let feed = TestFeed::create(version, ITEMS, "FOR TABLE items WHERE (id > 1)").await;
    let set = "ALTER PUBLICATION feed SET TABLE items";
    assert_gap(&feed, &format!("{set} WHERE (id > 2)")).await;
    assert_gap(&feed, &format!("{set} (id)")).await;
    assert_no_gap(&feed, &format!("{set} (id)")).await;
    assert_gap(&feed, set).await;
}

async fn other_operations_of_the_publication_are_a_gap(version: Version) {
    let feed = TestFeed::create(version, ITEMS, "FOR ALL TABLES").await;
    let set = "ALTER PUBLICATION feed SET";
    assert_gap(&feed, &format!("{set} (publish = 'insert')")).await;
    assert_gap(&feed, &format!("{set} (publish_via_partition_root)")).await;
    assert_no_gap(&feed, &format!("{set} (publish = 'insert')")).await;
}

async fn a_table_that_is_added_or_dropped_is_no_gap(version: Version) {
    let feed = TestFeed::create(version, ITEMS, "FOR TABLE items").await;
    let add = "CREATE TABLE more (id int PRIMARY KEY); CREATE SCHEMA shop; \
               ALTER PUBLICATION feed ADD TABLE more, TABLES IN SCHEMA shop";
    assert_no_gap(&feed, add).await;
    assert_no_gap(&feed, "DROP TABLE more; DROP SCHEMA shop").await;
    assert_no_gap(&feed, "ALTER TABLE items ADD COLUMN more int").await;
    assert_eq!(feed.drain().await, 0);
    feed.run("INSERT INTO items VALUES (1)").await;
    assert_eq!(feed.drain().await, 1);
}

/// Its object was evicted: only the database remembers what was published.
async fn a_gap_of_the_publication_is_told_to_a_feed_that_was_away(version: Version) {
    let feed = TestFeed::create(version, ITEMS, "FOR TABLE items").await;
    feed.run(&format!("{AWAY} ALTER PUBLICATION feed ADD TABLE items"))
        .await;
    let cause = Some(Discontinuity::PublicationChanged);
    assert_eq!(recover(&feed).await.discontinuity, cause);
}

/// What is written while there is no publication is reported by decoding itself.
async fn a_publication_that_is_replaced_at_once_is_no_gap(version: Version) {
    let mut feed = TestFeed::create(version, ITEMS, "FOR TABLE items").await;
    let replace = "DROP PUBLICATION feed; CREATE PUBLICATION feed FOR TABLE items";
    assert_no_gap(&feed, replace).await;
    let empty = "DROP PUBLICATION feed; CREATE PUBLICATION feed; \
                 ALTER PUBLICATION feed ADD TABLE items";
    assert_gap(&feed, empty).await;
    // A name that is misspelt and corrected.
    let right = std::mem::replace(&mut feed.config.publication, "fede".into());
    let error = try_resume(&feed, OnSlotLost::Recover).await.unwrap_err();
    assert_eq!(error.code(), "publication_missing");
    feed.config.publication = right;
    feed.run("INSERT INTO items VALUES (7)").await;
    assert_eq!(recover(&feed).await.discontinuity, None);
    assert_eq!(feed.drain().await, 1);
    // Another publication, which lacks the table.
    feed.run("CREATE TABLE more (id int PRIMARY KEY); CREATE PUBLICATION other FOR TABLE more")
        .await;
    feed.config.publication = "other".into();
    let cause = Some(Discontinuity::PublicationChanged);
    assert_eq!(recover(&feed).await.discontinuity, cause);
}

/// Until `POST /init` is called on the new build.
async fn a_database_without_the_newest_migration_is_read_as_before(version: Version) {
    let feed = TestFeed::create(version, ITEMS, "FOR TABLE items").await;
    feed.run(
        "ALTER TABLE replication_checkpoint DROP COLUMN publication; \
         DELETE FROM replication_migration WHERE version = 3",
    )
    .await;
    feed.run("INSERT INTO items VALUES (1)").await;
    assert_eq!(feed.drain().await, 1);
    let mut reader = feed.reader().await;
    feed.run(&format!("{AWAY} ALTER PUBLICATION feed ADD TABLE items"))
        .await;
    let error = reader.poll().await.unwrap_err();
    assert_recovers(&error, "publication_changed");
}
