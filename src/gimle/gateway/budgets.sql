-- name: all_budgets
-- The budgets of all tenants, for a node's memory.
select * from budget order by tenant, id;

-- name: insert_budget
-- A new budget; no row when there is one for the same thing and the same period.
insert into budget (id, name, unit, scope, subject, period, anchor, amount, mode, webhook, downgrade_percent,
    downgrade_model)
values (%(id)s, %(name)s, %(unit)s, %(scope)s, %(subject)s, %(period)s, %(anchor)s, %(amount)s, %(mode)s, %(webhook)s,
    %(downgrade_percent)s, %(downgrade_model)s)
on conflict (tenant, unit, scope, subject, period) do nothing returning *;

-- name: update_budget
-- Another amount, mode, alert or rule for the same thing and period.
update budget set name = %(name)s, amount = %(amount)s, mode = %(mode)s, webhook = %(webhook)s,
    downgrade_percent = %(downgrade_percent)s, downgrade_model = %(downgrade_model)s, updated_at = now()
where id = %(id)s and unit = 'usd' returning *;

-- name: delete_budget
-- Forget a budget, and what was spent of it.
delete from budget where id = %(id)s and unit = 'usd' returning id;

-- name: budget_by_id
-- One budget of money.
select * from budget where id = %(id)s and unit = 'usd';

-- name: budget_webhook
-- Where a budget's alerts go.
select webhook from budget where id = %(id)s;

-- name: list_budgets
-- A page of a tenant's budgets of money.
select * from budget where id > %(after)s and unit = 'usd' order by id limit %(limit)s;

-- name: budget_spent
-- How a budget stands in one period.
select p.spent, p.unknown, coalesce((select sum(l.granted - l.spent) from budget_lease l
    where l.budget = p.budget and l.starts_at = p.starts_at), 0)::bigint as held
from budget_period p where p.budget = %(id)s and p.starts_at = %(since)s;

-- name: budget_turn
-- Tell what a lease has spent, and ask for more or give some back.
select granted, spent, leased, amount, alert from budget_turn(%(lease)s, %(budget)s, %(since)s, %(until)s,
    %(total)s::bigint, %(wish)s::bigint, %(seconds)s::integer, %(fresh)s, %(closing)s, %(short)s);

-- name: expired_leases
-- Leases whose holders have said nothing in time.
select id, tenant from budget_lease where expires_at < now() order by tenant, id limit 500;

-- name: owners_of_leases
-- Whose these leases are.
select id, tenant from budget_lease where id = any(%(leases)s) order by tenant, id;

-- name: sweep_lease
-- End a dead holder's lease.
select budget_sweep(%(lease)s, %(used)s::bigint);

-- name: tell_budgets
-- Tell all nodes something about a budget.
select pg_notify('gimle_budgets', %(note)s);
