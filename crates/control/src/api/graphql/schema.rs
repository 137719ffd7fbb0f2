//! What can be asked, and how it is answered.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, LazyLock};

use async_graphql::dynamic::{
    Enum, Field, FieldFuture, FieldValue, InputObject, InputValue, Object, ObjectAccessor, ResolverContext,
    Scalar, Schema, TypeRef, ValueAccessor,
};
use async_graphql::{Error, SelectionField, Value};

use crate::store::analytics::{
    Comparison, Condition, Dimension, MAX_GROUPS, Metric, Order, UsageGroup, UsageQuery,
};
use crate::store::{AccountId, Store};

pub(super) const ACCOUNT_FILTER: &str = "AccountFilter";
pub(super) const GROUPS_FILTER: &str = "AccountCallsTurnUsageAdaptiveGroupsFilter_InputObject";
pub(super) const ORDER_BY: &str = "AccountCallsTurnUsageAdaptiveGroupsOrderBy";
const GROUPS: &str = "AccountCallsTurnUsageAdaptiveGroups";
const TIME: &str = "Time";
const DATE: &str = "Date";
const UINT64: &str = "uint64";

/// How deep a document may be, and how many fields it may ask for.
const MAX_DEPTH: usize = 16;
const MAX_FIELDS: usize = 1_000;
/// How many questions about usage one request may hold, under one name or several.
const MAX_QUESTIONS: u32 = 20;

/// What a dimension may be compared by: the name's ending.
const TIME_COMPARISONS: [(&str, Comparison); 6] = [
    ("", Comparison::Equal),
    ("_neq", Comparison::NotEqual),
    ("_geq", Comparison::AtLeast),
    ("_gt", Comparison::Above),
    ("_leq", Comparison::AtMost),
    ("_lt", Comparison::Below),
];

/// Who asks.
pub(super) struct Asker {
    store: Store,
    account: AccountId,
    questions: AtomicU32,
}

impl Asker {
    pub(super) fn new(store: Store, account: AccountId) -> Self {
        Self { store, account, questions: AtomicU32::new(0) }
    }
}

/// One group, and what tells it from others.
struct Row {
    dimensions: Arc<[Dimension]>,
    group: UsageGroup,
}

pub(super) static SCHEMA: LazyLock<Schema> = LazyLock::new(|| {
    let viewer = Field::new("viewer", TypeRef::named_nn("Viewer"), |_| {
        FieldFuture::new(async { Ok(Some(FieldValue::owned_any(()))) })
    });
    let accounts = Field::new("accounts", TypeRef::named_nn_list_nn("Account"), |context| {
        FieldFuture::new(async move { accounts(&context).map(Some) })
    })
    .argument(InputValue::new("filter", TypeRef::named(ACCOUNT_FILTER)))
    .argument(InputValue::new("limit", TypeRef::named(TypeRef::INT)));
    let tag = Field::new("accountTag", TypeRef::named_nn(TypeRef::STRING), |context| {
        FieldFuture::new(async move { Ok(Some(Value::from(context.data::<Asker>()?.account.as_str()))) })
    });
    let groups = Field::new("callsTurnUsageAdaptiveGroups", TypeRef::named_nn_list_nn(GROUPS), |context| {
        FieldFuture::new(async move { groups(&context).await.map(Some) })
    })
    .argument(InputValue::new("limit", TypeRef::named(TypeRef::INT)))
    .argument(InputValue::new("filter", TypeRef::named(GROUPS_FILTER)))
    .argument(InputValue::new("orderBy", TypeRef::named_list(ORDER_BY)));
    let account_filter = InputObject::new(ACCOUNT_FILTER)
        .field(InputValue::new("accountTag", TypeRef::named(TypeRef::STRING)));
    Schema::build("Query", None, None)
        .register(Object::new("Query").field(viewer))
        .register(Object::new("Viewer").field(accounts))
        .register(Object::new("Account").field(tag).field(groups))
        .register(account_filter)
        .register(groups_filter())
        .register(order_by())
        .register(group_object())
        .register(dimensions_object())
        .register(sum_object())
        .register(avg_object())
        .register(Scalar::new(TIME))
        .register(Scalar::new(DATE))
        .register(Scalar::new(UINT64))
        .limit_depth(MAX_DEPTH)
        .limit_complexity(MAX_FIELDS)
        .finish()
        .expect("the schema is whole")
});

fn groups_filter() -> InputObject {
    let mut filter = InputObject::new(GROUPS_FILTER);
    for (dimension, name) in Dimension::ALL {
        let is_time = dimension.span_secs().is_some();
        for (ending, _) in TIME_COMPARISONS.iter().take(if is_time { 6 } else { 2 }) {
            let named = format!("{name}{ending}");
            filter = filter.field(InputValue::new(named, TypeRef::named(TypeRef::STRING)));
        }
        filter = filter.field(InputValue::new(format!("{name}_in"), TypeRef::named_list(TypeRef::STRING)));
    }
    filter
}

fn order_by() -> Enum {
    let mut order = Enum::new(ORDER_BY);
    for (name, _) in orders() {
        order = order.item(format!("{name}_ASC")).item(format!("{name}_DESC"));
    }
    order
}

/// Everything that can be sorted by, without its direction.
fn orders() -> impl Iterator<Item = (String, Order)> {
    let dimensions = Dimension::ALL.iter().map(|(it, name)| ((*name).to_owned(), Order::Dimension(*it)));
    let metrics = Metric::ALL.iter().map(|(it, name)| {
        let of = if *it == Metric::Concurrent { "avg" } else { "sum" };
        (format!("{of}_{name}"), Order::Metric(*it))
    });
    dimensions.chain(metrics)
}

fn row<'a>(context: &'a ResolverContext<'_>) -> Result<&'a Row, Error> {
    context.parent_value.try_downcast_ref::<Row>()
}

/// The same row once more, for what is asked below it.
fn below(name: &'static str, of: &'static str) -> Field {
    Field::new(name, TypeRef::named_nn(of), |context| {
        FieldFuture::new(async move {
            let Row { dimensions, group } = row(&context)?;
            let again = Row { dimensions: Arc::clone(dimensions), group: group.clone() };
            Ok(Some(FieldValue::owned_any(again)))
        })
    })
}

fn group_object() -> Object {
    Object::new(GROUPS)
        .field(below("dimensions", "AccountCallsTurnUsageAdaptiveGroupsDimensions"))
        .field(below("sum", "AccountCallsTurnUsageAdaptiveGroupsSum"))
        .field(below("avg", "AccountCallsTurnUsageAdaptiveGroupsAvg"))
}

fn dimensions_object() -> Object {
    let mut object = Object::new("AccountCallsTurnUsageAdaptiveGroupsDimensions");
    for (dimension, name) in Dimension::ALL {
        let of = match dimension {
            Dimension::Date => DATE,
            dimension if dimension.span_secs().is_some() => TIME,
            _ => TypeRef::STRING,
        };
        object = object.field(Field::new(name, TypeRef::named_nn(of), move |context| {
            FieldFuture::new(async move {
                let Row { dimensions, group } = row(&context)?;
                let place = dimensions.iter().position(|it| *it == dimension);
                let value = place.and_then(|place| group.values.get(place));
                Ok(value.map(|value| Value::from(value.text())))
            })
        }));
    }
    object
}

fn sum_object() -> Object {
    let mut object = Object::new("AccountCallsTurnUsageAdaptiveGroupsSum");
    for (metric, name) in Metric::ALL.into_iter().filter(|(metric, _)| *metric != Metric::Concurrent) {
        object = object.field(Field::new(name, TypeRef::named_nn(UINT64), move |context| {
            FieldFuture::new(async move { Ok(Some(Value::from(sum(&row(&context)?.group, metric)))) })
        }));
    }
    object
}

fn sum(group: &UsageGroup, metric: Metric) -> u64 {
    match metric {
        Metric::EgressBytes => group.usage.egress_bytes,
        Metric::EgressPackets => group.usage.egress_packets,
        Metric::IngressBytes => group.usage.ingress_bytes,
        Metric::IngressPackets => group.usage.ingress_packets,
        Metric::Sessions | Metric::Concurrent => group.sessions,
    }
}

fn avg_object() -> Object {
    let name = "concurrentConnectionsFiveMinutes";
    let concurrent = Field::new(name, TypeRef::named_nn(TypeRef::FLOAT), |context| {
        FieldFuture::new(async move { Ok(Some(Value::from(row(&context)?.group.concurrent))) })
    });
    Object::new("AccountCallsTurnUsageAdaptiveGroupsAvg").field(concurrent)
}

/// The token's account; with another one named, nothing may be said.
fn accounts<'a>(context: &ResolverContext<'a>) -> Result<FieldValue<'a>, Error> {
    let asker = context.data::<Asker>()?;
    let filter = given(&context.args, "filter")
        .map(|filter| filter.object().map(|filter| text_of_tag(&filter)))
        .transpose()?;
    if let Some(tag) = filter.flatten()
        && tag.parse::<AccountId>().ok().as_ref() != Some(&asker.account)
    {
        return Err(Error::new(format!("not authorized for the account {tag:?}")));
    }
    Ok(FieldValue::list([FieldValue::owned_any(())]))
}

fn text_of_tag(filter: &ObjectAccessor<'_>) -> Option<String> {
    given(filter, "accountTag").and_then(|tag| tag.string().ok().map(ToOwned::to_owned))
}

/// What is given under a name, and is not null.
fn given<'a>(from: &'a ObjectAccessor<'_>, name: &str) -> Option<ValueAccessor<'a>> {
    from.get(name).filter(|value| !value.is_null())
}

async fn groups<'a>(context: &ResolverContext<'a>) -> Result<FieldValue<'a>, Error> {
    let asker = context.data::<Asker>()?;
    if asker.questions.fetch_add(1, Ordering::Relaxed) >= MAX_QUESTIONS {
        return Err(Error::new(format!("a request may hold {MAX_QUESTIONS} questions about usage")));
    }
    let mut dimensions: Vec<Dimension> = Vec::new();
    for field in context.ctx.look_ahead().field("dimensions").selection_fields() {
        let asked = field.selection_set().filter_map(|field| Dimension::named(field.name()));
        dimensions.extend(asked);
    }
    dimensions.sort_unstable();
    dimensions.dedup();
    let limit = given(&context.args, "limit").map_or(Ok(u64::from(MAX_GROUPS)), |limit| limit.u64());
    let limit = limit.ok().and_then(|limit| u32::try_from(limit).ok());
    let limit = limit.filter(|limit| (1..=MAX_GROUPS).contains(limit));
    let limit = limit.ok_or_else(|| Error::new(format!("limit is 1 to {MAX_GROUPS}")))?;
    let conditions = match given(&context.args, "filter") {
        Some(filter) => conditions(&filter.object()?)?,
        None => vec![],
    };
    let order = match given(&context.args, "orderBy") {
        Some(list) => order(&list, &dimensions)?,
        None => vec![],
    };
    let asked = ["sum", "avg"].map(|it| context.ctx.look_ahead().field(it).selection_fields());
    let asked = asked.iter().flatten().flat_map(SelectionField::selection_set);
    let named = |name: &str| Metric::ALL.iter().find(|(_, it)| *it == name).map(|(metric, _)| *metric);
    let metrics = asked.filter_map(|field| named(field.name())).collect();
    let query = UsageQuery {
        account: asker.account.clone(),
        dimensions: dimensions.clone(),
        conditions,
        order,
        limit,
        metrics,
    };
    let groups = asker.store.usage(&query).await.map_err(|error| {
        tracing::error!(request = %crate::api::request_id(), error = &error as &dyn std::error::Error, "usage cannot be read");
        Error::new("usage cannot be read")
    })?;
    let dimensions: Arc<[Dimension]> = dimensions.into();
    Ok(FieldValue::list(
        groups
            .into_iter()
            .map(|group| FieldValue::owned_any(Row { dimensions: Arc::clone(&dimensions), group })),
    ))
}

fn conditions(filter: &ObjectAccessor<'_>) -> Result<Vec<Condition>, Error> {
    let mut conditions = Vec::new();
    for (dimension, name) in Dimension::ALL {
        let wrong = |error| Error::new(format!("{name}: {error}"));
        for (ending, comparison) in TIME_COMPARISONS {
            if let Some(value) = given(filter, &format!("{name}{ending}")) {
                conditions.push(Condition::new(dimension, comparison, value.string()?).map_err(wrong)?);
            }
        }
        if let Some(list) = given(filter, &format!("{name}_in")) {
            let values = list.list()?;
            let values = values.iter().filter(|value| !value.is_null());
            let values = values.map(|value| value.string().map(ToOwned::to_owned));
            let values = values.collect::<Result<Vec<_>, _>>()?;
            conditions.push(Condition::any_of(dimension, &values).map_err(wrong)?);
        }
    }
    Ok(conditions)
}

fn order(list: &ValueAccessor<'_>, dimensions: &[Dimension]) -> Result<Vec<(Order, bool)>, Error> {
    let known: Vec<(String, Order)> = orders().collect();
    let mut order = Vec::new();
    for value in list.list()?.iter() {
        let text = value.enum_name()?;
        let split = text.strip_suffix("_DESC").map(|name| (name, true));
        let split = split.or_else(|| text.strip_suffix("_ASC").map(|name| (name, false)));
        let found = split.and_then(|(name, is_descending)| {
            let (_, by) = known.iter().find(|(known, _)| known == name)?;
            Some((*by, is_descending))
        });
        let (by, is_descending) = found.ok_or_else(|| Error::new(format!("{text} is no order")))?;
        if let Order::Dimension(dimension) = by
            && !dimensions.contains(&dimension)
        {
            return Err(Error::new(format!("to sort by {text}, ask for it in `dimensions`")));
        }
        order.push((by, is_descending));
    }
    Ok(order)
}
