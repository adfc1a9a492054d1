"""Reports: plain result values to text and JSON.  Nothing here measures, prints or knows TVM."""
