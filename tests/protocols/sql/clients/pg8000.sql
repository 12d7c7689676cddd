begin transaction
-- ;;
select 1
-- ;;
commit
